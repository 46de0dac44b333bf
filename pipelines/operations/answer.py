"""An answer in the terminal: a question, its measurements in lines that fit, and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_LENGTH = 40
"""Bars of a sparkline at most. Each is the mean of as many values as are needed to show all."""
QUESTION_WIDTH = 13
"""Columns of a question; the measurements stand beside it."""


@dataclass(frozen=True)
class Answer:
    """A question, its newest measurements, and a verdict or what to do.

    A line is broken inside a measurement only if that is longer than a line.
    """

    question: str
    measurements: Sequence[str]
    verdict: Text | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yields as many lines as the width of the terminal needs."""
        width = max(options.max_width - QUESTION_WIDTH, 20)
        shown = [
            Text(text + ("," if number < len(self.measurements) - 1 else ""))
            for number, text in enumerate(self.measurements)
        ]
        shown += [self.verdict] if self.verdict else []
        line, first = Text(), True
        for part in (piece for text in shown for piece in _pieces(text, width, console)):
            gap = "" if not line else "   " if part is self.verdict else " "
            if line and len(line) + len(gap) + len(part) > width:
                yield self._line(line, first)
                line, first, gap = Text(), False, ""
            line = Text.assemble(line, gap, part)
        yield self._line(line, first)

    def _line(self, line: Text, first: bool) -> Text:
        return Text.assemble((self.question if first else "").ljust(QUESTION_WIDTH), line, overflow="fold")


def _pieces(text: Text, width: int, console: Console) -> Sequence[Text]:
    """The text, in lines if it is too long for one."""
    return [text] if len(text) <= width else list(text.wrap(console, width))


def sparkline(values: Sequence[float | None]) -> str:
    """All values as bars, each the mean of equally many neighbours if there are many; a blank for missing values."""
    size = -(-len(values) // SPARKLINE_LENGTH) or 1
    bars = [_mean(values[start : start + size]) for start in range(0, len(values), size)]
    known = [bar for bar in bars if bar is not None]
    low, span = (min(known), (max(known) - min(known)) or 1.0) if known else (0.0, 1.0)
    return "".join(" " if bar is None else BARS[int((bar - low) / span * (len(BARS) - 1))] for bar in bars)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
