"""Python, and the packages that this project asks for."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement

from pipelines.operations.doctor.finding import Finding

OWN = "spatialt2i"


def check_python() -> Finding:
    """3.11 or newer."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(sys.version_info >= (3, 11), f"Python {version}", "install Python 3.11 or newer")


def check_packages() -> Iterator[Finding]:
    """Everything that pyproject.toml asks for, in a version that it allows."""
    try:
        wanted = importlib.metadata.requires(OWN) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(False, f"{OWN} itself is not installed", "run `make setup`, or `pip install -e .` in its folder")
        return
    asked = [Requirement(line) for line in wanted]
    needed = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    problems = [problem for problem in map(_problem, needed) if problem]
    for problem in problems:
        yield Finding(False, problem, "run `make setup`, or install with `--constraint constraints.txt`")
    yield Finding(True, f"{len(needed) - len(problems)} of {len(needed)} packages installed as asked for")


def _problem(wanted: Requirement) -> str:
    """What is wrong with a package; "" where nothing is."""
    try:
        have = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    fits = wanted.specifier.contains(have, prereleases=True)
    return "" if fits else f"{wanted.name} {have} is installed, {wanted.specifier} is needed"
