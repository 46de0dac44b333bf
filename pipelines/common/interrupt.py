"""SIGTERM ends a command as Ctrl-C does: everything that it started is stopped, and one line says what happened."""

from __future__ import annotations

import signal
import threading
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after SIGINT and SIGTERM, as in shells."""

_catching, _terminated = threading.Event(), threading.Event()


def catch_sigterm() -> None:
    """Makes SIGTERM raise KeyboardInterrupt in the main thread, where asyncio and Ray's calls react to it.

    For a command in a process of its own. Outside the main thread, where Python sets no handlers, it does nothing.
    """
    if threading.current_thread() is threading.main_thread():
        _catching.set()
        signal.signal(signal.SIGTERM, _interrupt)


def catch_sigterm_again() -> None:
    """Repeats `catch_sigterm`, if it was called: Ray sets its own handler when it is imported and started."""
    if _catching.is_set():
        catch_sigterm()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _terminated.set()
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):  # a shell's job in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def exit_code() -> int:
    """The exit code of a command that ended with KeyboardInterrupt."""
    return TERMINATED if _terminated.is_set() else INTERRUPTED
