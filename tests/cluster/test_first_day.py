"""docs/cluster.md leads to a running cluster: every command of its numbered lists is one that its program accepts."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import textwrap
from itertools import groupby
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_cli
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

from cluster.render import changed_values, rendered
from conf import load
from pipelines.cli import parse_settings
from pipelines.common.node_limits import largest_cluster

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
WAYS = ("KubeRay", "AWS", "Machines of your own", "Slurm", "The first hour")


def section(title: str) -> str:
    return re.split(r"^## ", GUIDE.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.M)[0]


def commands(text: str) -> list[list[str]]:
    """The words of each command in the blocks of a text."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.M | re.S)
    lines = [line for block in blocks for line in textwrap.dedent(block).replace("\\\n", " ").splitlines()]
    found: list[list[str]] = []
    for line in lines:
        words = shlex.shlex(line, posix=True, punctuation_chars="&;|")
        words.whitespace_split = True
        groups = groupby(words, key=lambda word: set(word) <= set("&;|"))
        found += [list(group) for separates, group in groups if not separates]
    return found


@pytest.mark.parametrize("title", WAYS)
def test_each_way_is_a_numbered_list_of_shell_commands(title: str) -> None:
    text = section(title)
    numbers = [int(number) for number in re.findall(r"^(\d)\. ", text, re.M)]
    assert numbers[:3] == [1, 2, 3] or numbers[:2] == [1, 2]
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.M | re.S):
        checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
    assert commands(text)


@pytest.mark.parametrize("words", [words for title in WAYS for words in commands(section(title))], ids=" ".join)
def test_a_command_of_the_guide_is_accepted(words: list[str]) -> None:
    if words[0] == "spatialt2i":
        parse_settings(words[1:])
    elif words[0] == "sbatch":
        parse_settings(words[words.index("cluster/slurm.sh") + 1 :])
    elif words[:3] == ["python", "-m", "cluster.render"]:
        values = changed_values([word for word in words[5:] if "=" in word])
        assert words[4] == "out/" and rendered(load(words[3]), values)
    elif words[0] == "ray" and words[1] in ("start", "up", "exec", "get-auth-token"):
        command = ray_cli.commands[words[1]]
        arguments = [str(ROOT / "cluster" / word[4:]) if word.startswith("out/") else word for word in words[2:]]
        command.make_context(words[1], arguments)  # raises for an option that Ray does not have
    elif words[:2] == ["kubectl", "apply"]:
        named = [word.removeprefix("out/") for word in words if word.startswith("out/")]
        assert named and all((ROOT / "cluster" / name).is_file() for name in named)


STUBS = {
    "scontrol": 'printf "node1\\nnode2\\n"',
    "hostname": "echo '10.0.0.1 172.17.0.1'",
    # drops its own options, and runs the rest
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "ray": '[[ "$1" == symmetric-run ]] || exit 0; printf "%s\\n" "$SPATIALT2I_MAX_NODES" "$@" > "$RECORD"',
}


def test_the_batch_script_calls_ray_as_it_wants_to_be_called(tmp_path: Path) -> None:
    """With programs in place of Slurm's and Ray's that record their arguments."""
    programs = tmp_path / "project" / ".venv" / "bin"  # the script puts this folder first
    programs.mkdir(parents=True)
    for name, text in STUBS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    variables = {"SLURM_SUBMIT_DIR": str(tmp_path / "project"), "SLURM_JOB_NODELIST": "node[1-2]"}
    variables |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "64", "SLURM_GPUS_ON_NODE": "8", "USER": "u"}
    wanted = ["policy", "train", "flux_dev", "run_dir=/shared/flux_dev", "serving.model=/shared/spatialscore"]
    result = subprocess.run(
        ["bash", str(ROOT / "cluster" / "slurm.sh"), *wanted],
        env={"PATH": os.environ["PATH"], "RECORD": str(tmp_path / "record"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    limits, verb, *words = (tmp_path / "record").read_text().splitlines()
    separator = words.index("--")
    context = symmetric_run.make_context("_", words[:separator], resilient_parsing=True)
    assert verb == "symmetric-run" and context.params["address"] == "10.0.0.1:6379" and context.params["min_nodes"] == 2
    start = curate_and_validate_ray_start_args(words[:separator])
    ray_cli.commands["start"].make_context("start", ["--head", "--port=6379", *start])
    assert words[separator + 1 :] == ["spatialt2i", *wanted, "ray_address=10.0.0.1:6379"]
    _, settings = parse_settings(words[separator + 2 :])
    assert settings.ray_address == "10.0.0.1:6379"
    nodes = largest_cluster({"SPATIALT2I_MAX_NODES": limits})
    assert nodes is not None and [(node.cpus, node.gpus) for node in nodes] == [(64, 8), (64, 8)]


@pytest.mark.parametrize("preset", ["flux_dev", "flux_dev_no_filter", "flux_dev_top4", "qwen_image", "flux_dev_8gpu"])
def test_the_table_of_presets_has_their_numbers(preset: str) -> None:
    policy, serving = load(preset).policy, load(preset).serving
    (row,) = (line for line in GUIDE.splitlines() if line.startswith("| `") and f"`{preset}`" in line)
    beside = ", and {} beside" if serving.gpus < 1 else ", {} |"
    assert f"| {policy.learner.ranks}{beside.format(serving.max_replicas)}" in row
    gpus = policy.learner.ranks + (serving.max_replicas if serving.gpus == 1 else 0)
    assert f"| {gpus} of 80 GB |" in row


def test_the_dashboards_of_ray_that_the_guide_loads_exist_and_fit_into_a_config_map() -> None:
    from ray.dashboard.modules.metrics import grafana_dashboard_factory, metrics_head

    (names,) = re.findall(r"^for name in (.*); do\n  kubectl create configmap", GUIDE, re.M)
    for name in names.split():
        assert f'"{name}_grafana_dashboard.json"' in Path(metrics_head.__file__).read_text()
        text, _ = getattr(grafana_dashboard_factory, f"generate_{name}_grafana_dashboard")()
        assert len(text) < 2**20
