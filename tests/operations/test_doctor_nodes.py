"""The doctor looks at every node: its driver, its view of the run's disk, and its packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from conf import load
from pipelines.operations.doctor.driver import driver_problem, installed_driver
from pipelines.operations.doctor.gpus import Gpu, GpuInfo, check_memory
from pipelines.operations.doctor.nodes import NodeReport, check_nodes, compare, versions

GOOD = NodeReport(reads=True, problem="", versions=versions(), models=constants.HF_HUB_CACHE)
KERNEL = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\nGCC version: 12.2.0\n"


@pytest.mark.parametrize(
    ("driver", "cuda", "needed"),
    [("550.54.15", "13.0", "580"), ("580.82.07", "13.0", ""), ("550.54.15", "12.8", ""), ("470.1", "12.8", "525")],
)
def test_a_driver_that_is_older_than_torch_s_cuda_needs_is_named(driver: str, cuda: str, needed: str) -> None:
    problem = driver_problem(driver, cuda)
    assert (f"needs {needed} or newer" in problem) if needed else problem == ""
    assert driver_problem("", cuda) == driver_problem(driver, "") == ""


def test_the_driver_is_read_from_the_kernel_and_explains_a_gpu_that_torch_does_not_see(tmp_path: Path) -> None:
    (tmp_path / "version").write_text(KERNEL)
    driver = installed_driver(tmp_path / "version")
    assert driver == "550.54.15"
    (finding,) = check_memory("node a", GpuInfo("13.0", (), driver), load("flux_dev"))
    assert not finding.ok and "node a: NVIDIA's driver 550.54.15 is too old" in finding.message
    found = list(check_memory("node a", GpuInfo("13.0", [Gpu("H100", 80)], "580.1"), load("flux_dev")))
    assert all(each.ok for each in found)


@pytest.mark.parametrize(
    ("report", "arrived", "expected"),
    [
        (GOOD, True, ""),
        (replace(GOOD, reads=False), True, "has another folder at /shared"),
        (GOOD, False, "has another folder at /shared"),
        (replace(GOOD, problem="Read-only file system"), False, "cannot write to /shared: Read-only file system"),
        (replace(GOOD, versions={**GOOD.versions, "torch": "2.1"}), True, "has torch 2.1 instead of"),
        (replace(GOOD, models="/home/me/.cache"), True, "keeps models in /home/me/.cache"),
    ],
)
def test_each_fault_of_a_node_is_one_finding(report: NodeReport, arrived: bool, expected: str) -> None:
    found = list(compare("node b", report, arrived, "/shared"))
    assert len(found) == bool(expected)
    for finding in found:
        assert not finding.ok and finding.message.startswith("node b") and expected in finding.message and finding.fix


@pytest.mark.ray
def test_every_node_of_a_cluster_answers_and_nothing_is_left_behind(ray_cluster: None, tmp_path: Path) -> None:
    (finding,) = check_nodes(load("scenes", [f"run_dir={tmp_path}/new/run"]))
    assert finding.ok and finding.message.startswith("1 of 1 nodes write to the run's disk"), finding
    assert list(tmp_path.iterdir()) == []
