"""GenEval: objects, counts, colours and positions that a detector decides (Ghosh et al., arXiv 2310.11513).

The summary is that of the authors' evaluation/summary_scores.py; `geneval_rules.py` has the rules on boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.benchmark.geneval_rules import RIGHT, Clause, Detection, Verdict, clauses_of, evaluate, judge, kept
from pipelines.benchmark.items import (
    BenchmarkItem,
    JudgeForm,
    Judgement,
    Part,
    Problem,
    Question,
    ScoreProtocol,
    Source,
    Wording,
)
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.published_files import Line, check_file, first_existing, read_items, string_of
from pipelines.benchmark.scores import Cell, Counts, Stratum, Summary
from pipelines.benchmark.wordings import wording_of

__all__ = ["Clause", "Detection", "GenEval", "Verdict", "clauses_of", "evaluate", "judge", "kept"]

IMAGES = 4
SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
SOURCE = Source(
    "djghosh13/geneval",
    "af4902f24d3ca90ebbb446dd9891a59e0f82725f",
    ("prompts/evaluation_metadata.jsonl", "prompts/object_names.txt", "LICENSE"),
    "MIT",
)
GET = SOURCE.how_to_get


@dataclass(frozen=True)
class GenEval:
    """GenEval. An image is right or wrong as a whole; the overall score is the mean over the tags."""

    name: str = "geneval"
    title: str = "GenEval"
    folder: str = "geneval"
    source: Source = SOURCE
    form: JudgeForm = "detector"

    def check(self, folder: Path) -> Sequence[Problem]:
        """What is wrong with the file of prompts."""
        return check_file(_file(folder), SHA256, GET)

    def load(self, folder: Path, part: Part) -> tuple[BenchmarkItem, ...]:
        """Reads all prompts; `part` makes no difference, as every tag counts in the overall score."""
        return read_items(_file(folder), GET, _item)

    def wording(self, folder: Path) -> Wording:
        """None: a detector judges."""
        return wording_of((), "none: a detector judges")

    def summarize(
        self, items: Sequence[BenchmarkItem], judgements: Sequence[Judgement], protocol: ScoreProtocol
    ) -> Summary:
        """Share of right images by tag, and their mean. Both protocols count alike; only missing images are listed."""
        known = Judgements.of(items, judgements)
        tags: dict[str, dict[str, Counts]] = {}
        prompts: dict[str, Counts] = {}
        for item in known.items:
            answers = known.answers(item)
            given = [answer.values[0] == RIGHT for answer in answers if answer is not None and answer.values]
            missing = len(answers) - len(given)
            tags.setdefault(item.group, {})[item.id] = Counts(sum(given), len(given), missing)
            prompts[item.id] = Counts(float(any(given)), 1) if given else Counts(missing=1)
        strata = tuple(Stratum(tag, images) for tag, images in tags.items())
        images = {item: counts for shares in tags.values() for item, counts in shares.items()}
        cells = [
            Cell("overall", strata, table="overall"),
            Cell("images", (Stratum("images", images),), table="overall", note="right images"),
            Cell("prompts", (Stratum("prompts", prompts),), table="overall", note="prompts with a right image"),
            *(Cell(stratum.name, (stratum,), table="tag") for stratum in strata),
        ]
        return known.summary(self.name, cells)


def _file(folder: Path) -> Path:
    return first_existing(folder, "prompts/evaluation_metadata.jsonl", "evaluation_metadata.jsonl")


def _item(line: Line, index: int) -> BenchmarkItem:
    tag, prompt = string_of(line, "tag"), string_of(line, "prompt")
    question = Question("0", prompt, RIGHT, tag, row=index)
    item = BenchmarkItem(f"{index:05d}", prompt, (question,), IMAGES, tag, index=index, metadata=line.values)
    for kind in ("include", "exclude"):
        clauses_of(item, kind)
    return item
