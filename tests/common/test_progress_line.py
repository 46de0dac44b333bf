"""The progress line: plain lines in a file, one line on a terminal, and a rate that means something."""

from __future__ import annotations

import io
import sys
import time
from functools import partial

import pytest

from pipelines.common.progress_line import CLEAR_LINE, Pace, ProgressLine, clock, counted


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_comes_from_the_start_and_every_period() -> None:
    lines: list[str] = []
    with ProgressLine("stage", lines.append, text="loading", period_s=0.1):
        time.sleep(0.35)
    assert len(lines) >= 2 and all(line.startswith("stage  loading  0 s") for line in lines)


def test_a_phase_is_said_at_once_and_stays_until_there_is_something_to_count() -> None:
    lines: list[str] = []
    with ProgressLine("stage", lines.append, period_s=0.1) as progress:
        progress.phase("starting Ray")
        assert lines == ["stage  starting Ray"]
        progress.follow(lambda: "3/9 pairs" if len(lines) > 1 else "")
        deadline = time.monotonic() + 20
        while len(lines) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert lines[1].startswith("stage  starting Ray  ") and lines[2] == "stage  3/9 pairs"


def test_lines_of_the_block_postpone_the_next_state() -> None:
    lines: list[str] = []
    with ProgressLine("stage", lines.append, period_s=0.4) as progress:
        for number in range(8):
            progress.log(f"line {number}")
            time.sleep(0.05)
    assert lines == [f"line {number}" for number in range(8)]


def test_an_update_is_printed_if_a_line_is_due() -> None:
    lines: list[str] = []
    with ProgressLine("stage", lines.append) as progress:
        for number in range(100):
            progress.update(f"{number}/100")
        progress.finish("100/100")
    assert lines == ["stage  100/100"]


@pytest.mark.parametrize("exchanged", [False, True], ids=["", "print is exchanged"])
def test_a_terminal_shows_one_line_that_is_written_again(exchanged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray exchanges the builtin print when it shows progress bars."""
    screen, original = Screen(), print
    if exchanged:
        monkeypatch.setattr("builtins.print", partial(original))
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(time, "strftime", lambda form: "14:03:25")
    with ProgressLine("stage") as progress:
        progress.phase("starting")
        progress.log("a line of the block")
        progress.finish("9/9 " + "x" * 100)
    dim, end, block = "\x1b[2m", "\x1b[0m", "14:03:25  a line of the block\n"
    last = ("stage  9/9 " + "x" * 100)[:29]
    expected = f"{CLEAR_LINE}{dim}stage  starting{end}{CLEAR_LINE}{block}{CLEAR_LINE}{dim}{last}{end}\n"
    assert screen.getvalue() == expected


def test_the_rate_begins_with_the_first_count() -> None:
    pace = Pace()
    for now, done in ((0.0, 0), (60.0, 0), (90.0, 10), (95.0, 60), (100.0, 110)):
        pace.count(done, now)
    assert pace.rate() == 10 and pace.seconds_left(50) == 5  # 100 rows in 10 s; the 90 s before are start-up


def test_counts_that_come_together_have_no_rate() -> None:
    pace = Pace()
    for now, done in ((62.0, 250), (62.1, 500), (62.9, 6000)):
        pace.count(done, now)
    assert pace.rate() is None and pace.seconds_left(1) is None
    assert counted(6000, 6000, "pairs", Pace()) == "6000/6000 pairs"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (245, "4:05 min"), (7380, "2:03 h")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
