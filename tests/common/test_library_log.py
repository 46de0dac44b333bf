"""What libraries write goes to a file of the run; what we tell the user stays on the terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

NOISE = """
import logging, os, sys, warnings
from pathlib import Path
from pipelines.common import console, interrupt, library_log, terminal
library_log.start("spatialt2i test")
interrupt.catch_sigterm()
warnings.warn("from warnings", FutureWarning)
library = logging.getLogger("ray.data")
library.setLevel(logging.DEBUG)
library.addHandler(logging.StreamHandler())
library.warning("from a logger with a handler of its own")
logging.getLogger("transformers").warning("from a logger that propagates")
on_stdout = logging.getLogger("DeepSpeed")
on_stdout.addHandler(logging.StreamHandler(sys.stdout))
on_stdout.propagate = False
on_stdout.warning("from a logger on standard output")
print("from print", file=sys.stderr)
os.write(2, b"from C++\\n")
os.system("echo from a child process >&2")
log = Path(sys.argv[1]) / "logs" / "libraries.log"
library_log.move(log)
library_log.move(log)
os.write(2, b"after the move\\n")
print("a result", flush=True)
terminal.print_warning("ours")
"""
EXPECTED = (
    "spatialt2i test",
    "from warnings",
    "from a logger with a handler of its own",
    "from a logger that propagates",
    "from a logger on standard output",
    "from print",
    "from C++",
    "from a child process",
    "after the move",
)


def _run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", NOISE + code, str(folder)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def test_only_our_lines_reach_the_terminal(tmp_path: Path) -> None:
    done = _run("", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a result\n", "spatialt2i: warning: ours\n")
    log = (tmp_path / "logs" / "libraries.log").read_text()
    assert [text for text in EXPECTED if text not in log] == []
    assert log.index("from print") < log.index("from C++") < log.index("after the move")


def test_warnings_of_our_modules_are_shown(tmp_path: Path) -> None:
    ours = "exec(compile('logging.warning(\"disk %d\", 7); logging.info(\"quiet\")', console.__file__, 'exec'))"
    done = _run(ours, tmp_path)
    assert done.stderr == "spatialt2i: warning: ours\nspatialt2i: warning: disk 7\n"


def test_a_fault_is_shown_with_its_traceback_and_the_log(tmp_path: Path) -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    assert console.report(error) is None\n    raise"
    done = _run(code, tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert f"Messages of libraries: {tmp_path}/logs/libraries.log" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("inside", ["time.sleep(60)", "asyncio.run(asyncio.sleep(60))"])
@pytest.mark.parametrize("resumes", [True, False])
def test_a_signal_ends_a_command_with_one_line(
    number: signal.Signals, code: int, inside: str, resumes: bool, tmp_path: Path
) -> None:
    program = (
        f"import asyncio, time\ntry:\n    print('started', flush=True)\n    {inside}\n"
        f"except BaseException as error:\n    sys.exit(console.report(error, {resumes}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", NOISE + program, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "started\n":
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    last = "stopped; the same command goes on from here" if resumes else "stopped"
    assert (process.returncode, err.splitlines()) == (code, ["spatialt2i: warning: ours", f"spatialt2i: {last}"])


def test_a_folder_that_cannot_be_written_does_not_end_a_command(tmp_path: Path) -> None:
    done = _run("library_log.move(Path('/dev/null/logs/x.log'))\nprint('goes on')", tmp_path)
    assert done.stdout == "a result\ngoes on\n"
