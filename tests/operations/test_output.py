"""What the commands print: lines of ours only, from the first seconds, and at the end where the result is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

FOREIGN = re.compile(
    r"^\[?\d{4}-\d\d-\d\d"  # a logger's time
    r"|\b(WARNING|INFO|DEBUG)\b|Warning:|warnings\.warn|\(pid=|logging\.cc|\*\*\*|\bPC: @|Traceback|it/s\]"
)
SMALL = (
    "preferences.pairs=60",
    "preferences.shard_rows=30",
    "preferences.generated_fraction=0",
    "preferences.test_fraction=0.3",
    "reward.batch_size=8",
    "reward.epochs=1",
    "policy.iterations=1",
    "policy.prompts_per_iteration=2",
    "policy.group_size=4",
    "policy.algorithm.top_k=2",
    "policy.optimizer.steps_per_iteration=1",
    "policy.evaluation.prompts=4",
    "evaluation.short_prompts=2",
    "evaluation.long_prompts=2",
    "evaluation.images_per_prompt=1",
    "serving.skip_sanity_checks=true",
)
COMMANDS = (
    ("preferences build", r"60 pairs .* in (\S+)"),
    ("preferences report", r"(\S+\.html)"),
    ("reward train", r"wrote (\S+)"),
    ("reward evaluate", r"Open (\S+) in a browser"),
    ("reward merge", r": (\S+)"),
    ("policy train", r"LoRA for diffusers: (\S+)"),
    ("policy export export.merged=true", r"wrote (\S+merged)"),
    ("policy sample 'a red circle left of a blue square'", r"wrote (\S+\.png)"),
    ("evaluate", r"Open (\S+) in a browser"),
    ("status status.once=true", ""),
    ("doctor", ""),
)
"""Commands of a whole run in order, each with what its last line must say. The group is a path that exists."""


def _command(words: str, run_dir: Path) -> str:
    return f"exec {sys.executable} -m pipelines.cli {words} run_dir={run_dir}"


@pytest.mark.slow
def test_every_command_prints_only_our_lines_and_where_its_result_is(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for words, ending in COMMANDS:
        ended = subprocess.run(
            f"{_command(words, run_dir)} {' '.join(SMALL)}", shell=True, capture_output=True, text=True, check=False
        )
        lines = ended.stdout.splitlines()
        expected = (0, 1) if words == "reward train" else (0,)  # a fit this short does not pass its sanity checks
        assert ended.returncode in expected, f"{words}: {ended.stdout}{ended.stderr}"
        assert [line for line in lines if FOREIGN.search(line)] == [], words
        assert [line for line in ended.stderr.splitlines() if not line.startswith("spatialt2i: ")] == [], words
        found = re.search(ending, lines[-1])
        assert found, f"{words}: {lines[-1]}"
        assert not ending or Path(found[1]).exists(), f"{words}: {lines[-1]}"
    assert (run_dir / "logs" / "libraries.log").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_build_leaves_one_line_and_no_process(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """It is stopped while Ray's workers generate pairs. The first line of progress comes before that."""
    process = subprocess.Popen(
        _command("preferences build preferences.pairs=100000", tmp_path),
        shell=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        seen: list[str] = []
        while not any("generated" in line for line in seen):
            line = process.stdout.readline()
            assert line, process.communicate()
            seen.append(line)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()  # if it did not stop, it must not go on behind the other tests
    assert any(re.match(r"\d\d:\d\d:\d\d  preferences  starting the workers", line) for line in seen)
    assert (process.returncode, err) == (code, "spatialt2i: stopped; the same command goes on from here\n")
    deadline = time.monotonic() + 60
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.5)
