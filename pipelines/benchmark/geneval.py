"""GenEval: objects, counts, colours and positions that a detector decides (Ghosh et al., arXiv 2310.11513).

The rules are those of the authors' evaluation/evaluate_images.py (`evaluate`) and evaluation/summary_scores.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from actors.rewards.directions import directions
from conf import UserError
from pipelines.benchmark.items import (
    Answer,
    BenchmarkItem,
    JudgeCall,
    JudgeForm,
    Judgement,
    Misread,
    Parsed,
    Part,
    Problem,
    Question,
    ScoreProtocol,
    Wording,
)
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.published_files import Line, Source, check_file, first_existing, read_lines, string_of
from pipelines.benchmark.scores import Cell, Counts, Stratum, Summary
from pipelines.benchmark.wordings import wording_of

IMAGES = 4
THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MAX_BOXES = 16  # of a class
MARGIN = 0.1  # of the sum of both sizes, subtracted from the offset of the centres
RIGHT, WRONG = "yes", "no"
SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
SOURCE = Source(
    "djghosh13/geneval",
    "af4902f24d3ca90ebbb446dd9891a59e0f82725f",
    ("prompts/evaluation_metadata.jsonl", "prompts/object_names.txt", "LICENSE"),
    "MIT",
)
GET = (
    f"clone github.com/{SOURCE.repository} at commit {SOURCE.commit[:12]} into this folder, or run "
    "`spatialt2i benchmark fetch`"
)


@dataclass(frozen=True)
class Detection:
    """One object that a detector found. Corners are in pixels."""

    name: str  # of its class
    confidence: float
    left: float
    top: float
    right: float
    bottom: float
    color: str = ""  # the classifier's; needed only for classes of which a prompt names a colour


@dataclass(frozen=True)
class Clause:
    """What an image must show: `count` objects of a class, perhaps of a colour or at a place."""

    name: str
    count: int
    color: str = ""
    relation: str = ""  # "left of", …: of these objects to those of clause `target`
    target: int = 0


@dataclass(frozen=True)
class Verdict:
    """Whether an image is right, and why not."""

    right: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class GenEval:
    """GenEval. An image is right or wrong as a whole; the overall score is the mean over the tags."""

    name: str = "geneval"
    title: str = "GenEval"
    folder: str = "geneval"
    form: JudgeForm = "detector"

    def check(self, folder: Path) -> Sequence[Problem]:
        """What is wrong with the file of prompts."""
        return check_file(_file(folder), SHA256, GET)

    def load(self, folder: Path, part: Part) -> tuple[BenchmarkItem, ...]:
        """Reads all prompts; `part` makes no difference, as every tag counts in the overall score."""
        items = tuple(_item(line, index) for index, line in enumerate(read_lines(_file(folder), GET)))
        if not items:
            raise UserError(f"{_file(folder)} has no lines: {GET}")
        return items

    def wording(self, folder: Path) -> Wording:
        """None: a detector judges."""
        return wording_of((), "none: a detector judges")

    def ask(self, item: BenchmarkItem, image: int, attempt: int, wording: Wording) -> JudgeCall:
        """Raises NotImplementedError: a detector judges."""
        raise NotImplementedError("GenEval is judged by a detector: use geneval.judge")

    def parse(self, item: BenchmarkItem, reply: str) -> Parsed | Misread:
        """Raises NotImplementedError: a detector judges."""
        raise NotImplementedError("GenEval is judged by a detector: use geneval.judge")

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


def clauses_of(item: BenchmarkItem, kind: str) -> tuple[Clause, ...]:
    """The clauses of an item's metadata. `kind`: "include" or "exclude". Raises UserError for a malformed one."""
    found = item.metadata.get(kind, [])
    clauses = [_clause(each, item.id) for each in cast("list[object]", found)] if isinstance(found, list) else []
    for number, clause in enumerate(clauses):
        if clause.relation and not 0 <= clause.target < number:
            raise UserError(f"GenEval's prompt {item.id}: a position must refer to an earlier clause, got {clause}")
    return tuple(clauses)


def judge(item: BenchmarkItem, image: int, detections: Sequence[Detection]) -> Answer:
    """The answer about an image from what a detector found, of any confidence and in any order."""
    verdict = evaluate(item, detections)
    return Answer(item.id, image, (RIGHT if verdict.right else WRONG,), verdict.reasons)


def evaluate(item: BenchmarkItem, detections: Sequence[Detection]) -> Verdict:
    """GenEval's `evaluate`: all clauses of "include" must hold and none of "exclude"."""
    found = kept(detections, counting=item.group == "counting")
    reasons: list[str] = []
    matched: list[Sequence[Detection]] = []  # of each clause; empty if it does not hold
    for clause in clauses_of(item, "include"):
        objects = found.get(clause.name, [])[: clause.count]
        reason = _unmet(clause, objects, matched)
        reasons += [reason] if reason else []
        matched.append([] if reason else objects)
    for clause in clauses_of(item, "exclude"):
        count = len(found.get(clause.name, []))
        if count >= clause.count:
            reasons.append(f"expected {clause.name}<{clause.count}, found {count}")
    return Verdict(not reasons, tuple(reasons))


def kept(detections: Sequence[Detection], counting: bool) -> dict[str, list[Detection]]:
    """Class -> its best boxes, the most confident first: above the threshold, and MAX_BOXES at most."""
    threshold = COUNTING_THRESHOLD if counting else THRESHOLD
    found: dict[str, list[Detection]] = {}
    for each in sorted(detections, key=lambda each: -each.confidence):
        boxes = found.setdefault(each.name, [])
        if each.confidence > threshold and len(boxes) < MAX_BOXES:
            boxes.append(each)
    return {name: boxes for name, boxes in found.items() if boxes}


def _unmet(clause: Clause, objects: Sequence[Detection], matched: Sequence[Sequence[Detection]]) -> str:
    """Why a clause does not hold; "" if it does."""
    if len(objects) < clause.count:
        return f"expected {clause.name}>={clause.count}, found {len(objects)}"
    if clause.color:
        right = sum(each.color == clause.color for each in objects)
        if right < clause.count:
            return f"expected {clause.color} {clause.name}>={clause.count}, found {right}"
    if not clause.relation:
        return ""
    targets = matched[clause.target]
    if not targets:
        return f"no target for {clause.name} to be {clause.relation}"
    for each in objects:
        for target in targets:
            held = directions(_box(each), _box(target), MARGIN)
            if clause.relation not in held:
                return f"expected {clause.name} {clause.relation} target, found {' and '.join(sorted(held))} target"
    return ""


def _box(each: Detection) -> tuple[float, float, float, float]:
    """Centre, width and height."""
    return (
        (each.left + each.right) / 2,
        (each.top + each.bottom) / 2,
        abs(each.right - each.left),
        abs(each.bottom - each.top),
    )


def _file(folder: Path) -> Path:
    return first_existing(folder, "prompts/evaluation_metadata.jsonl", "evaluation_metadata.jsonl")


def _item(line: Line, index: int) -> BenchmarkItem:
    tag, prompt = string_of(line, "tag"), string_of(line, "prompt")
    question = Question("0", prompt, RIGHT, tag, row=index)
    item = BenchmarkItem(f"{index:05d}", prompt, (question,), IMAGES, tag, index=index, metadata=line.values)
    for kind in ("include", "exclude"):
        clauses_of(item, kind)
    return item


def _clause(values: object, item: str) -> Clause:
    found = cast("Mapping[str, object]", values) if isinstance(values, dict) else {}
    name, count, color, position = (found.get(key) for key in ("class", "count", "color", "position"))
    if not isinstance(name, str) or not isinstance(count, int) or not isinstance(color, str | None):
        raise UserError(f"GenEval's prompt {item}: a clause must have a class and a count, got {values!r:.80}: {GET}")
    if position is None:
        return Clause(name, count, color or "")
    place = cast("list[object]", position) if isinstance(position, list) else []
    if len(place) != 2 or not isinstance(place[0], str) or not isinstance(place[1], int):
        raise UserError(f'GenEval\'s prompt {item}: a position must be like ["left of", 0], got {position!r}: {GET}')
    return Clause(name, count, color or "", place[0], place[1])
