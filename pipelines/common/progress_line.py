"""Progress of one stage: what it does, how many are done, the rate and the time left.

On a terminal it is one line that is written again. In a file or a pipe it is a plain line at most every ten seconds.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from pipelines.common import terminal

PERIOD_S = 10.0
"""Seconds without a line after which one is printed."""
REWRITE_S = 0.5
"""Seconds between two states of a line on a terminal."""
CLEAR_LINE = "\r\x1b[2K"
_PRINT = print
"""Ray exchanges the builtin for a function of its own when it shows progress bars."""
MIN_RATE_S = 2.0
"""Seconds of counted work from which a rate means something."""


class Pace:
    """The rate of a count. It starts at the first count, so that starting up and loading are not part of it."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def count(self, done: int, now: float) -> None:
        """Notes that `done` are done at the time `now`, in seconds. 0 is not counted: the start-up may still go on."""
        if not done:
            return
        if self._first is None:
            self._first = (now, done)
        if done > self._last[1] or self._last[0] == 0.0:
            self._last = (now, done)

    def rate(self) -> float | None:
        """Done per second between the first count and the last one. None if they are too close for a rate."""
        if self._first is None or self._last[0] - self._first[0] < MIN_RATE_S:
            return None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])

    def seconds_left(self, left: int) -> float | None:
        """Seconds for `left` more. None if there is no rate."""
        rate = self.rate()
        return left / rate if rate else None


class ProgressLine:
    """A context manager that reports on its block. Lines of the block itself go through `log`."""

    def __init__(
        self, title: str, log: Callable[[str], None] = print, text: str = "", period_s: float = PERIOD_S
    ) -> None:
        """`text`: what is done first; it is printed after a period. `log` receives the lines.

        If `log` is `print`, lines that stay start with the time of day. On a terminal one line is written again and
        again.
        """
        to_user = log in (_PRINT, print)
        self._title, self._print, self._period_s = title, _print_timed if to_user else log, period_s
        self._rewrites = to_user and terminal.is_terminal(sys.stdout)
        self._state, self._printed, self._open = _waiting(text), time.monotonic(), False
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._open:  # the last state stays
            print(flush=True)

    def phase(self, text: str) -> None:
        """Says at once what is done now, such as "loading the models". It is repeated with its seconds."""
        self.wait(text)
        self._show(text)

    def wait(self, text: str) -> None:
        """Sets what is done now. It is said, with its seconds, when a line is due."""
        self._state = _waiting(text)

    def follow(self, state: Callable[[], str]) -> None:
        """Takes the text from `state` whenever a line is due. While it is "", the phase stays.

        It is called in another thread.
        """
        phase = self._state
        self._state = lambda: state() or phase()

    def update(self, text: str) -> None:
        """Sets the text. It is printed if a line is due."""
        self._state = lambda: text
        if self._is_due():
            self._show(text)

    def finish(self, text: str) -> None:
        """Sets the last text and prints it."""
        self._state = lambda: text
        self._show(text)

    def log(self, line: str) -> None:
        """Prints a line of the block. The next text follows a period later."""
        with self._lock:
            if self._open:
                sys.stdout.write(CLEAR_LINE)
                self._open = False
            self._print(line)
            self._printed = time.monotonic()

    def _repeat(self) -> None:
        while not self._ended.wait(min(REWRITE_S, self._period_s / 2)):
            text = self._state()  # also if no line is due: a state measures its rate
            if self._is_due():
                self._show(text)

    def _is_due(self) -> bool:
        return time.monotonic() - self._printed >= (REWRITE_S if self._open else self._period_s)

    def _show(self, text: str) -> None:
        line = f"{self._title}  {text}"
        with self._lock:
            if self._rewrites:
                width = shutil.get_terminal_size().columns - 1
                sys.stdout.write(CLEAR_LINE + terminal.styled(line[:width], "dim"))
                self._open = True
            else:
                self._print(line)
            sys.stdout.flush()
            self._printed = time.monotonic()


def _print_timed(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}")


def _waiting(text: str) -> Callable[[], str]:
    """The state of something that cannot be counted: the text and the seconds since now."""
    started = time.monotonic()

    def state() -> str:
        return f"{text}  {clock(time.monotonic() - started)}".lstrip()

    return state


def counted(done: int, total: int, unit: str, pace: Pace) -> str:
    """A text such as "250/6000 pairs  21 pairs/s  4:33 min left". Rate and time left follow once they are known."""
    pace.count(done, time.monotonic())
    rate, left = pace.rate(), pace.seconds_left(total - done)
    speed = f"  {rate:.3g} {unit}/s" if rate else ""
    return f"{done}/{total} {unit}{speed}" + (f"  {clock(left)} left" if left is not None and done < total else "")


def slowest(paces: Mapping[str, Pace], left: Mapping[str, int]) -> float | None:
    """Seconds until the last of several counts is complete. None while one of them has no rate."""
    times = [paces[name].seconds_left(left[name]) for name in left if left[name]]
    return None if not times or None in times else max(time for time in times if time is not None)


def clock(seconds: float) -> str:
    """A time as "7 s", "4:05 min" or "2:03 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
