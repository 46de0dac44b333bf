"""`submit` follows a job on a real head through cuts of the connection and the loss of the head."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.head import running_head
from tests.support.tcp_proxy import running_proxy

ROOT = Path(__file__).parents[2]
PROGRAM = """
import pathlib, sys, time
run = pathlib.Path(next(word[8:] for word in sys.argv if word.startswith("run_dir=")))
first = len((run / "lines").read_text().splitlines()) if (run / "lines").exists() else 0
for number in range(first, 10_000):
    with (run / "lines").open("a") as log:
        print(number, file=log)
    print(f"iteration {number}.", flush=True)
    if (run / "finish").exists():
        sys.exit(0)
    time.sleep(0.1)
"""
"""The driver of a run that continues where the one before was killed, until it is asked to end."""


def wait_until(done: Callable[[], bool], process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + 240
    while not done():
        assert process.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_job_is_followed_through_two_cuts_and_a_lost_head(tmp_path: Path) -> None:
    """Each line arrives once after a cut. The second head does not know the job, so `submit` sends it again."""
    project, run_dir, output = tmp_path / "project", tmp_path / "run", tmp_path / "output"
    for name, text in {"pipelines/cli.py": PROGRAM, "pipelines/__init__.py": "", "conf/settings.py": ""}.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    run_dir.mkdir()

    def printed() -> int:
        """The last iteration that `submit` has printed."""
        return int((re.findall(r"iteration (\d+)\.", output.read_text()) or ["-1"])[-1])

    with running_proxy(target=0) as proxy:
        with running_head() as head:
            proxy.target = int(head.dashboard.rpartition(":")[2])
            words = ["submit", "policy", "train", f"run_dir={run_dir}", f"submit.working_dir={project}"]
            words += [f"submit.address=http://127.0.0.1:{proxy.port}", "submit.keep=true"]
            with output.open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "pipelines.cli", *words],
                    env=head.environment,
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
            for _ in range(2):
                seen = printed()
                wait_until(lambda seen=seen: printed() > seen + 3, process, output)
                proxy.cut()
                time.sleep(1.5)
                proxy.restore()
            wait_until(lambda: output.read_text().count("connected again, job raysubmit") == 2, process, output)
            seen = printed()
            wait_until(lambda: printed() > seen + 3, process, output)
            numbers = [int(number) for number in re.findall(r"iteration (\d+)\.", output.read_text())]
            assert numbers == list(range(len(numbers))), numbers
        with running_head() as head:
            proxy.target = int(head.dashboard.rpartition(":")[2])
            wait_until(lambda: output.read_text().count("submitted job raysubmit") == 2, process, output)
            (run_dir / "finish").touch()
            assert process.wait(timeout=60) == 0, output.read_text()
    text = output.read_text()
    assert "the cluster does not know the job: its head was started again" in text and "Traceback" not in text, text
    lines = (run_dir / "lines").read_text().split()
    assert lines == [str(number) for number in range(len(lines))]  # never two drivers at once
