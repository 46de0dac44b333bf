"""Colours where a terminal has them, and none where not."""

from __future__ import annotations

import io
import sys

import pytest

from pipelines.common import terminal


class Stream(io.TextIOWrapper):
    """A terminal or a file in an encoding."""

    def __init__(self, is_terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "environment", "expected"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "0"}, False),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours(
    is_terminal: bool, environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Stream(is_terminal)
    assert terminal.has_colours(stream) is expected
    assert terminal.styled("no", "bad", stream) == ("\x1b[31mno\x1b[0m" if expected else "no")


@pytest.mark.parametrize(("encoding", "marks"), [("utf-8", ("✓", "✗")), ("ascii", ("ok  ", "FAIL"))])
def test_marks_fit_the_encoding(encoding: str, marks: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Stream(is_terminal=False, encoding=encoding))
    assert (terminal.mark(True), terminal.mark(False)) == marks


def test_marks_at_the_starts_of_lines_are_coloured_when_they_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "✓ first\n✗ second ✓\nok   third\nokay"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.coloured(text) == text
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    green, red, end = "\x1b[32m", "\x1b[31m", "\x1b[0m"
    assert terminal.coloured(text) == f"{green}✓{end} first\n{red}✗{end} second ✓\n{green}ok{end}   third\nokay"
