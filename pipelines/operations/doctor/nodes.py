"""Checks every node of a cluster: it must see the run directory, and have the packages of the driver."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import Settings
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.node_tasks import NODE_TIMEOUT, live_nodes, node_name, start_on

PACKAGES = ("ray", "torch", "transformers", "diffusers", "peft", "safetensors", "numpy")
"""Packages whose versions must be the same everywhere: weights and pickled objects go from node to node."""
MOUNT_FIX = "mount the shared folder there at the same path, writable for the user of Ray's processes"
VERSION_FIX = "install the same constraints.txt there, or use the same image on all nodes"


@dataclass(frozen=True)
class NodeReport:
    """What one node answers."""

    reads: bool
    """Whether it read the file that the driver wrote."""
    problem: str
    """Why it could not write a file of its own; "" if it could."""
    versions: Mapping[str, str]
    """Package -> version, with Python's."""
    models: str
    """Folder of its model cache."""


def probe_node(folder: str, name: str) -> NodeReport:
    """Runs on a node: reads the driver's file and writes one called `name` beside it."""
    reads, problem = (Path(folder) / "driver").is_file(), ""
    try:
        (Path(folder) / name).write_text(name)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    from huggingface_hub import constants

    return NodeReport(reads, problem, versions(), constants.HF_HUB_CACHE)


def versions() -> dict[str, str]:
    """The versions in this process. A package that is not installed is "missing"."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        found[package] = "missing"
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def check_nodes(settings: Settings) -> Iterator[Finding]:
    """Lets every node of the connected cluster write into the run directory's disk, and compares its packages.

    Leaves nothing behind. One line if all is well.
    """
    target = Path(settings.run_dir).absolute()
    parent = next(path for path in (target, *target.parents) if path.is_dir())
    folder = parent / f".doctor-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        (folder / "driver").touch()
    except OSError:
        return  # `check_storage` reports a folder that cannot be written
    try:
        yield from _ask_all(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ask_all(folder: Path) -> Iterator[Finding]:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    nodes = live_nodes()
    answers = [(node, start_on(node, probe_node, (str(folder), node["NodeID"]))) for node in nodes]
    good = 0
    for node, answer in answers:
        name = node_name(node)
        try:
            report: Any = ray.get(answer, timeout=NODE_TIMEOUT)
        except (GetTimeoutError, RayError) as error:
            yield Finding(False, f"{name} does not run a task: {type(error).__name__}", "see `ray logs` of that node")
            continue
        os.scandir(folder).close()  # makes a network file system ask its server
        problems = list(compare(name, report, (folder / node["NodeID"]).is_file(), str(folder.parent)))
        good += not problems
        yield from problems
    if good:
        yield Finding(True, f"{good} of {len(answers)} nodes write to the run's disk and have the same packages")


def compare(name: str, report: NodeReport, arrived: bool, folder: str) -> Iterator[Finding]:
    """The faults of one node. `arrived`: whether the driver sees the file that the node wrote."""
    if report.problem:
        yield Finding(False, f"{name} cannot write to {folder}: {report.problem}", MOUNT_FIX)
    elif not (report.reads and arrived):
        yield Finding(False, f"{name} has another folder at {folder} than the driver", MOUNT_FIX)
    own = versions()
    other = [f"{key} {value} instead of {own[key]}" for key, value in report.versions.items() if value != own[key]]
    if other:
        yield Finding(False, f"{name} has {', '.join(other)}", VERSION_FIX)
    from huggingface_hub import constants

    if report.models != constants.HF_HUB_CACHE:
        fix = "set HF_HOME to the same shared folder on all nodes, or each of them downloads every model"
        yield Finding(False, f"{name} keeps models in {report.models}, the driver in {constants.HF_HUB_CACHE}", fix)
