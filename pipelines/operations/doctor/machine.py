"""Checks Python and the packages that this project requires."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Sequence

from packaging.requirements import Requirement

from pipelines.operations.doctor.finding import Finding

PACKAGE = "spatialt2i"
MIN_PYTHON = (3, 11)


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Checks that the Python version is 3.11 or newer."""
    shown = ".".join(map(str, version))
    return Finding(version >= MIN_PYTHON, f"Python {shown}", "install Python 3.11 or newer")


def check_packages(package: str = PACKAGE) -> Iterator[Finding]:
    """Checks that a package is installed, and that its required packages are, in the versions it allows."""
    try:
        lines = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            False, f"{package} itself is not installed", "run `make setup`, or `pip install -e .` in its folder"
        )
        return
    yield from check_requirements(lines)


def check_requirements(lines: Sequence[str]) -> Iterator[Finding]:
    """Checks requirements such as "torch>=2.6": one finding for each problem, then one with the number that is met.

    Requirements of optional extras are ignored.
    """
    parsed = [Requirement(line) for line in lines]
    required = [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    problems = [problem for problem in map(_problem, required) if problem]
    for problem in problems:
        yield Finding(False, problem, "run `make setup`, or install with `--constraint constraints.txt`")
    yield Finding(True, f"{len(required) - len(problems)} of {len(required)} required packages are installed")


def _problem(requirement: Requirement) -> str:
    """What is wrong with a required package; "" if nothing is."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    allowed = requirement.specifier.contains(version, prereleases=True)
    return "" if allowed else f"{requirement.name} {version} is installed, but {requirement.specifier} is required"
