"""The judgements of one side by image: the last row counts, images without a row are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipelines.benchmark.items import Answer, BenchmarkItem, Judgement, Unreadable
from pipelines.benchmark.scores import Cell, Summary

NOT_JUDGED = "not judged"
"""The reason for an image without any judgement."""


@dataclass(frozen=True)
class Judgements:
    """What is known about every image of the items. Rows about other items or images are not used."""

    items: tuple[BenchmarkItem, ...]
    rows: Mapping[tuple[str, int], Judgement]

    @classmethod
    def of(cls, items: Sequence[BenchmarkItem], rows: Sequence[Judgement]) -> Judgements:
        """Keeps the last row of each image."""
        return cls(tuple(items), {(row.item, row.image): row for row in rows})

    def answers(self, item: BenchmarkItem) -> list[Answer | None]:
        """The answers about the images of an item, in order; None where there is none."""
        found = (self.rows.get((item.id, image)) for image in range(item.images))
        return [row if isinstance(row, Answer) else None for row in found]

    @cached_property
    def expected(self) -> int:
        """Number of images that should have answers."""
        return sum(item.images for item in self.items)

    @cached_property
    def judged(self) -> int:
        """Number of images that have answers."""
        return sum(answer is not None for item in self.items for answer in self.answers(item))

    @cached_property
    def unreadable(self) -> dict[str, int]:
        """Number of images without answers, by reason."""
        reasons = Counter[str]()
        for item in self.items:
            for image in range(item.images):
                row = self.rows.get((item.id, image))
                if not isinstance(row, Answer):
                    reasons[row.why if isinstance(row, Unreadable) else NOT_JUDGED] += 1
        return dict(reasons)

    def summary(
        self,
        benchmark: str,
        cells: Iterable[Cell],
        lost: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> Summary:
        """A summary with the counts of all images. `notes`: what a reader of the official scores must know."""
        counts = (self.expected, self.judged, self.unreadable, lost or {})
        return Summary(benchmark, tuple(cells), *counts, tuple(notes))
