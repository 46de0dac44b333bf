"""GenEval's rules: what a detector must find in an image (`evaluate` of the authors' evaluation/evaluate_images.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from actors.rewards.directions import directions
from conf import UserError
from pipelines.benchmark.items import Answer, BenchmarkItem

THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MAX_BOXES = 16  # of a class
MARGIN = 0.1  # of the sum of both sizes, subtracted from the offset of the centres
RIGHT, WRONG = "yes", "no"


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


def _clause(values: object, item: str) -> Clause:
    found = cast("Mapping[str, object]", values) if isinstance(values, dict) else {}
    name, count, color, position = (found.get(key) for key in ("class", "count", "color", "position"))
    if not isinstance(name, str) or not isinstance(count, int) or not isinstance(color, str | None):
        raise UserError(f"GenEval's prompt {item}: a clause must have a class and a count, got {values!r:.80}")
    if position is None:
        return Clause(name, count, color or "")
    place = cast("list[object]", position) if isinstance(position, list) else []
    if len(place) != 2 or not isinstance(place[0], str) or not isinstance(place[1], int):
        raise UserError(f'GenEval\'s prompt {item}: a position must be like ["left of", 0], got {position!r}')
    return Clause(name, count, color or "", place[0], place[1])
