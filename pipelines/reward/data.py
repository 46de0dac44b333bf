"""Preference rows -> comparisons: which image should score higher under which prompt.

Axes: N pairs, R rows (an image under a prompt), C comparisons (two rows).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset
from PIL import Image

from actors.files import file_system
from pipelines.common.images import decode

COLUMNS = (
    "pair_id", "group_id", "prompt", "perturbed_prompt", "image_w", "image_l", "kind", "n_perturb", "relations",
    "perturbations",
)  # fmt: skip
_BAD_ROW = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)  # what PIL and we raise for one
_SIDES = {"left": "right", "leftmost": "rightmost", "leftward": "rightward", "leftwards": "rightwards"}
_MIRRORED = {**_SIDES, **{there: here for here, there in _SIDES.items()}}
_SIDE_WORD = re.compile(rf"\b({'|'.join(_MIRRORED)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """One preference row, decoded."""

    pair_id: str
    prompt: str
    perturbed_prompt: str | None  # what image_l shows, where the prompt was changed to make it
    image_w: np.ndarray  # uint8 [H, W, 3], shows the prompt
    image_l: np.ndarray  # uint8 [H, W, 3]
    kind: str  # perturbed | exploit | generated
    n_perturb: int
    changed: tuple[str, ...] = ()  # words of the relations that were changed, e.g. ("left of",)
    group_id: str = ""  # pairs of one group have the same or nearly the same prompt


@dataclass(frozen=True)
class Unreadable:
    """A row that could not be decoded."""

    pair_id: str
    reason: str


@dataclass(frozen=True)
class Comparisons:
    """Rows to score, and which of them should beat which."""

    images: tuple[np.ndarray, ...]  # distinct images
    prompts: tuple[str, ...]  # [R]
    image_index: tuple[int, ...]  # [R]
    winners: tuple[int, ...]  # [C] row numbers
    losers: tuple[int, ...]  # [C]
    pairs: tuple[int, ...]  # [C] which pair a comparison is of


def read_pairs(folder: str, split: str) -> list[Pair]:
    """All pairs of a split, decoded, in the order of their ids."""
    system, path = file_system(folder)
    dataset = pyarrow.dataset.dataset(path, filesystem=system)
    table = dataset.to_table(columns=list(COLUMNS), filter=pc.field("split") == split).sort_by("pair_id")
    return [_pair(row) for row in table.to_pylist()]


def read_rows(
    rows: Sequence[Mapping[str, object]], check: Callable[[str], object]
) -> tuple[list[Pair], list[Unreadable]]:
    """Decodes preference rows. A row that cannot be is named and left out; nothing takes its place.

    `check` is called with every text, and raises ValueError for one that the reward model cannot read.
    """
    pairs, unreadable = [], []
    for row in rows:
        try:
            pair = _pair(row)
            for text in (pair.prompt, pair.perturbed_prompt):
                if text is not None:
                    check(text)
        except _BAD_ROW as error:
            unreadable.append(Unreadable(str(row["pair_id"]), f"{type(error).__name__}: {error}"))
        else:
            pairs.append(pair)
    return pairs, unreadable


def mirror_text(text: str) -> str:
    """The text with left and right exchanged, as the scene reads in a mirror. Capitals are kept.

    'right' is always read as a side; texts where it is not ('right in front of') should not be mirrored.
    """

    def exchange(match: re.Match[str]) -> str:
        word = _MIRRORED[match[0].lower()]
        return word.upper() if match[0].isupper() else word.capitalize() if match[0][0].isupper() else word

    return _SIDE_WORD.sub(exchange, text)


def mirrored(pair: Pair) -> Pair:
    """The pair in a mirror: both images flipped, left and right exchanged in both texts."""
    perturbed = None if pair.perturbed_prompt is None else mirror_text(pair.perturbed_prompt)
    return Pair(
        pair.pair_id, mirror_text(pair.prompt), perturbed, pair.image_w[:, ::-1], pair.image_l[:, ::-1],
        pair.kind, pair.n_perturb, tuple(mirror_text(word) for word in pair.changed), pair.group_id,
    )  # fmt: skip


def compare(pairs: Sequence[Pair], both_prompts: bool) -> Comparisons:
    """Every image_w should beat its image_l under the prompt; the other way round under the perturbed prompt."""
    images: list[np.ndarray] = []
    prompts: list[str] = []
    index: list[int] = []
    winners: list[int] = []
    of: list[int] = []
    for number, pair in enumerate(pairs):
        first = len(images)
        images += [pair.image_w, pair.image_l]
        ordered = [(pair.prompt, first, first + 1)]
        if both_prompts and pair.perturbed_prompt:
            ordered.append((pair.perturbed_prompt, first + 1, first))
        for prompt, better, worse in ordered:
            winners.append(len(prompts))
            of.append(number)
            prompts += [prompt, prompt]
            index += [better, worse]
    losers = tuple(row + 1 for row in winners)
    return Comparisons(tuple(images), tuple(prompts), tuple(index), tuple(winners), losers, tuple(of))


def _pair(row: Mapping[str, object]) -> Pair:
    image_w, image_l, perturbed = row["image_w"], row["image_l"], row["perturbed_prompt"]
    if not isinstance(image_w, Mapping) or not isinstance(image_l, Mapping):
        raise ValueError("image_w and image_l must be images, got null")
    return Pair(
        str(row["pair_id"]), str(row["prompt"]), str(perturbed) if perturbed else None,
        decode(image_w["bytes"]), decode(image_l["bytes"]), str(row["kind"]), int(str(row["n_perturb"])),
        _changed(row), str(row["group_id"]),
    )  # fmt: skip


def _changed(row: Mapping[str, object]) -> tuple[str, ...]:
    """Words of the prompt's relations that a perturbation names as what it changed."""
    relations, perturbations = row["relations"], row["perturbations"]
    assert isinstance(relations, Iterable) and isinstance(perturbations, Iterable)
    before = {change["from"] for change in perturbations}
    return tuple(
        one["relation"] for one in relations if f"{one['subject']} {one['relation']} {one['object']}" in before
    )
