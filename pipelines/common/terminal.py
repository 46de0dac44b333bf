"""What a command writes to the terminal: lines, marks and errors, in colours where the terminal has them."""

from __future__ import annotations

import os
import re
import sys
from typing import ClassVar, Literal, TextIO

Style = Literal["heading", "error", "warning", "dim", "good", "bad"]

_CODES: dict[Style, str] = {"heading": "1", "error": "1;31", "warning": "33", "dim": "2", "good": "32", "bad": "31"}
_MARK = re.compile(r"^(✓|✗|ok|FAIL)(?=\s)", re.MULTILINE)


class Terminal:
    """The terminal of this process."""

    errors: ClassVar[TextIO | None] = None
    """Stream for messages to the user while `library_log` has redirected standard error."""


def errors() -> TextIO:
    """The stream for messages to the user: standard error, also while `library_log` has redirected it."""
    return Terminal.errors or sys.stderr


def has_colours(stream: TextIO) -> bool:
    """Whether to write colours to a stream. NO_COLOR switches them off, FORCE_COLOR on; else a terminal has them."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") != "0":
        return True
    return is_terminal(stream)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which a line can be written again."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def styled(text: str, style: Style, stream: TextIO | None = None) -> str:
    """The text in a style, if the stream (standard output by default) has colours."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text and has_colours(stream or sys.stdout) else text


def mark(passed: bool) -> str:
    """✓ or ✗. In an encoding without these signs: ok or FAIL. `coloured` gives them their colours."""
    try:
        "✓✗".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return "ok  " if passed else "FAIL"
    return "✓" if passed else "✗"


def coloured(text: str) -> str:
    """The text with the marks at the starts of its lines in green and red, if standard output has colours.

    Colours are added when a text is printed, so that a text that is kept in a file has none.
    """
    return _MARK.sub(lambda found: styled(found[0], "good" if found[0] in ("✓", "ok") else "bad"), text)


def print_error(message: str) -> None:
    """Tells the user, on standard error, why the command ended."""
    _print_message(message, "error")


def print_warning(message: str) -> None:
    """Tells the user, on standard error, about something that did not end the command."""
    _print_message(f"warning: {message}", "warning")


def _print_message(message: str, style: Style) -> None:
    stream = errors()
    print(f"{styled('spatialt2i:', style, stream)} {message}", file=stream, flush=True)
