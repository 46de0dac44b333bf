"""Preference rows and the comparisons made from them: which image should score higher under which prompt.

Axes: N pairs, R rows (an image under a prompt), C comparisons (two rows).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from actors.images import ImageError, decode_image
from actors.reward_input import check_prompt
from actors.types import Relation
from conf import UserError
from pipelines.preferences.row_values import PairKind
from pipelines.reward.locations import HELD_OUT, PairSource, open_pairs
from pipelines.reward.row_groups import RowPlace, find_rows, read_rows_at
from pipelines.reward.unreadable import UnreadableRow, describe, refusal, too_many

COLUMNS = (
    "pair_id",
    "group_id",
    "prompt",
    "perturbed_prompt",
    "image_w",
    "image_l",
    "kind",
    "n_perturb",
    "relations",
    "perturbations",
)
"""The columns that a preference row must have for stage 2."""
ROW_COLUMNS = (*COLUMNS, "split", "generator")
"""The columns that stage 2 reads. A dataset from elsewhere may name no generator."""

Check = Callable[[str], object]
"""Raises ValueError for a prompt that the reward model cannot read."""
Decode = Callable[[bytes], np.ndarray]
"""Makes uint8 [H, W, 3] of an image file. Raises ImageError."""
_NO_IMAGE = np.empty((0, 0, 3), np.uint8)

_SIDES = {"left": "right", "leftmost": "rightmost", "leftward": "rightward", "leftwards": "rightwards"}
_MIRRORED = {**_SIDES, **{right: left for left, right in _SIDES.items()}}
_SIDE_WORD = re.compile(rf"\b({'|'.join(_MIRRORED)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """One preference row, decoded."""

    pair_id: str
    prompt: str
    perturbed_prompt: str | None  # what image_l shows, if the prompt was changed to make it
    image_w: np.ndarray  # uint8 [H, W, 3], shows the prompt
    image_l: np.ndarray  # uint8 [H, W, 3]
    kind: PairKind
    n_perturb: int  # changed relations
    changed: tuple[str, ...] = ()  # words of the changed relations, e.g. ("left of",)
    group_id: str = ""  # pairs of one group have the same or nearly the same prompt
    split: str = ""  # "" if it was not read
    generator: str = ""  # that made both images
    relations: tuple[Relation, ...] = ()  # of the prompt; () if the dataset does not state them

    @property
    def without_images(self) -> Pair:
        """What describes the pair: for results about many pairs, whose images would fill the memory."""
        return replace(self, image_w=_NO_IMAGE, image_l=_NO_IMAGE)


@dataclass(frozen=True)
class DecodedRows:
    """The pairs of some rows, and the rows that could not be decoded."""

    pairs: list[Pair]
    unreadable: list[UnreadableRow]

    @classmethod
    def of(cls, rows: Sequence[Pair | UnreadableRow]) -> DecodedRows:
        """Sorts rows into those that could be decoded and those that could not."""
        pairs = [row for row in rows if isinstance(row, Pair)]
        return cls(pairs, [row for row in rows if isinstance(row, UnreadableRow)])

    @property
    def left_out(self) -> str:
        """What was left out and why, in one line; empty if every row could be read."""
        rows = len(self.pairs) + len(self.unreadable)
        return describe(self.unreadable, rows) if self.unreadable else ""


@dataclass(frozen=True)
class Comparisons:
    """Rows to score, and which of them should score higher than which."""

    images: tuple[np.ndarray, ...]  # distinct images
    prompts: tuple[str, ...]  # [R]
    image_index: tuple[int, ...]  # [R] image of each row
    winners: tuple[int, ...]  # [C] row numbers
    losers: tuple[int, ...]  # [C] row numbers
    pairs: tuple[int, ...]  # [C] the pair of each comparison

    @property
    def without_images(self) -> Comparisons:
        """The same comparisons, for what comes after the scores."""
        return replace(self, images=())


def require_pairs(source: PairSource) -> None:
    """Raises UserError, with a fix, if there are no pairs that may be used. See `PairSource.require_verified`."""
    source.require_verified(COLUMNS)


def require_held_out_pairs(source: PairSource) -> None:
    """Raises UserError, with a fix, if there are no pairs that may be used, or none of them is held out."""
    require_pairs(source)
    if not any(open_pairs(folder).count_rows(filter=source.rows(HELD_OUT)) for folder in source.folders):
        raise UserError(f"no held-out pairs at {source.name}: raise preferences.test_fraction or preferences.pairs")


def read_pairs(source: PairSource, splits: Sequence[str], limit: int | None = None) -> DecodedRows:
    """The pairs of some splits, decoded and sorted by id, folder by folder.

    `limit`: only the first rows of each folder, of all folders evenly. All pairs are in memory: without a limit use
    `find_rows` and `read_place`. Raises UserError if `too_many` rows cannot be read.
    """
    order = {folder: number for number, folder in enumerate(source.folders)}
    numbered = [(order[place.folder], row) for place in find_rows(source, splits, limit) for row in read_place(place)]
    rows = [row for _, row in sorted(numbered, key=lambda entry: (entry[0], entry[1].pair_id))]
    decoded = DecodedRows.of(rows)
    if too_many(len(decoded.unreadable), len(rows)):
        raise refusal(decoded.left_out, source.name)
    return decoded


def read_place(
    place: RowPlace, check: Check = check_prompt, decode: Decode = decode_image
) -> Iterator[Pair | UnreadableRow]:
    """The rows of a place, decoded one by one, in the order of the file."""
    for row in read_rows_at(place, ROW_COLUMNS):
        yield decode_row(row, check, decode)


def read_rows(rows: Sequence[Mapping[str, object]], check: Check, decode: Decode = decode_image) -> DecodedRows:
    """Decodes preference rows. A row that cannot be decoded is listed and left out, and nothing replaces it."""
    return DecodedRows.of([decode_row(row, check, decode) for row in rows])


def decode_row(
    row: Mapping[str, object], check: Check = check_prompt, decode: Decode = decode_image
) -> Pair | UnreadableRow:
    """A preference row as a pair, or why it is none."""
    try:
        return checked(_decode_row(row, decode), check)
    except (ValueError, TypeError, KeyError) as error:
        return UnreadableRow(str(row["pair_id"]), str(error))


def checked(pair: Pair, check: Check) -> Pair:
    """The same pair. Raises ValueError if `check` refuses one of its prompts."""
    for prompt in (pair.prompt, pair.perturbed_prompt):
        if prompt is not None:
            check(prompt)
    return pair


def mirror_text(text: str) -> str:
    """The text with left and right exchanged. Capitals are kept.

    'right' is always read as a side. Do not mirror texts with another meaning of it ('right in front of').
    """

    def exchange(match: re.Match[str]) -> str:
        word = _MIRRORED[match[0].lower()]
        return word.upper() if match[0].isupper() else word.capitalize() if match[0][0].isupper() else word

    return _SIDE_WORD.sub(exchange, text)


def mirrored(pair: Pair) -> Pair:
    """The mirrored pair: both images flipped horizontally, left and right exchanged in both texts."""
    return replace(
        pair,
        prompt=mirror_text(pair.prompt),
        perturbed_prompt=None if pair.perturbed_prompt is None else mirror_text(pair.perturbed_prompt),
        image_w=pair.image_w[:, ::-1],
        image_l=pair.image_l[:, ::-1],
        changed=tuple(mirror_text(word) for word in pair.changed),
        relations=tuple(replace(each, relation=mirror_text(each.relation)) for each in pair.relations),
    )


def compare(pairs: Sequence[Pair], both_prompts: bool) -> Comparisons:
    """The comparisons of some pairs: image_w should score higher than image_l under the prompt.

    With `both_prompts`, image_l should also score higher than image_w under the perturbed prompt, if there is one.
    """
    images: list[np.ndarray] = []
    prompts: list[str] = []
    image_index: list[int] = []
    winners: list[int] = []
    pair_of: list[int] = []
    for number, pair in enumerate(pairs):
        w, l = len(images), len(images) + 1  # noqa: E741
        images += [pair.image_w, pair.image_l]
        comparisons = [(pair.prompt, w, l)]
        if both_prompts and pair.perturbed_prompt:
            comparisons.append((pair.perturbed_prompt, l, w))
        for prompt, winner, loser in comparisons:
            winners.append(len(prompts))
            pair_of.append(number)
            prompts += [prompt, prompt]
            image_index += [winner, loser]
    losers = tuple(row + 1 for row in winners)
    return Comparisons(tuple(images), tuple(prompts), tuple(image_index), tuple(winners), losers, tuple(pair_of))


def _decode_row(row: Mapping[str, object], decode: Decode) -> Pair:
    """Raises ValueError, TypeError or KeyError for a row that is no pair."""
    prompt, perturbed = row["prompt"], row["perturbed_prompt"]
    if not isinstance(prompt, str):
        raise TypeError("there is no prompt")
    return Pair(
        pair_id=str(row["pair_id"]),
        prompt=prompt,
        perturbed_prompt=str(perturbed) if perturbed else None,
        image_w=_decode_side(row, "image_w", decode),
        image_l=_decode_side(row, "image_l", decode),
        kind=cast(PairKind, row["kind"]),
        n_perturb=int(str(row["n_perturb"])),
        changed=_changed_relations(row),
        group_id=str(row["group_id"]),
        split=str(row.get("split", "")),
        generator=str(row.get("generator") or ""),
        relations=_relations(row),
    )


def _decode_side(row: Mapping[str, object], column: str, decode: Decode) -> np.ndarray:
    image = row[column]
    data = image["bytes"] if isinstance(image, Mapping) else None
    if not isinstance(data, bytes):
        raise TypeError(f"{column} has no image")
    try:
        return decode(data)
    except ImageError as error:
        raise ImageError(f"{column}: {error}") from error


def _relations(row: Mapping[str, object]) -> tuple[Relation, ...]:
    stated = row["relations"]
    if not isinstance(stated, Iterable):
        return ()
    return tuple(Relation(each["subject"], each["relation"], each["object"]) for each in stated)


def _changed_relations(row: Mapping[str, object]) -> tuple[str, ...]:
    """Words of the prompt's relations that a perturbation changed."""
    relations, perturbations = row["relations"], row["perturbations"]
    if not isinstance(relations, Iterable) or not isinstance(perturbations, Iterable):
        return ()  # a dataset from elsewhere does not state them
    changed = {perturbation["from"] for perturbation in perturbations}
    return tuple(
        relation["relation"]
        for relation in relations
        if f"{relation['subject']} {relation['relation']} {relation['object']}" in changed
    )
