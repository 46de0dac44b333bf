"""Preference rows -> comparisons: which image should score higher under which prompt.

Axes: N pairs, R rows (an image under a prompt), C comparisons (two rows).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset
import ray.data
from ray.data.datasource import FileShuffleConfig
from ray.data.expressions import col

from actors.storage import file_system
from pipelines.preferences.picture import decode

COLUMNS = (
    "pair_id", "prompt", "perturbed_prompt", "image_w", "image_l", "kind", "n_perturb", "relations", "perturbations",
)  # fmt: skip
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


@dataclass(frozen=True)
class Comparisons:
    """Rows to score, and which of them should beat which."""

    images: tuple[np.ndarray, ...]  # distinct images
    prompts: tuple[str, ...]  # [R]
    image_index: tuple[int, ...]  # [R]
    winners: tuple[int, ...]  # [C] row numbers
    losers: tuple[int, ...]  # [C]


def training_rows(folder: str, seed: int) -> ray.data.Dataset:
    """The `train` split as a Ray dataset, its files in an order drawn from `seed`."""
    rows = ray.data.read_parquet(folder, columns=[*COLUMNS, "split"], shuffle=FileShuffleConfig(seed))
    return rows.filter(expr=col("split") == "train").select_columns(list(COLUMNS))


def count_rows(folder: str, split: str) -> int:
    """Number of rows of a split. Raises ValueError if there is none, naming the stage that writes them."""
    system, path = file_system(folder)
    count = pyarrow.dataset.dataset(path, filesystem=system).count_rows(filter=pc.field("split") == split)
    if not count:
        raise ValueError(f"{folder} holds no preference rows of split {split!r}: run `spatialt2i preferences` first")
    return count


def read_pairs(folder: str, split: str) -> list[Pair]:
    """All pairs of a split, decoded, in the order of their ids."""
    system, path = file_system(folder)
    dataset = pyarrow.dataset.dataset(path, filesystem=system)
    table = dataset.to_table(columns=list(COLUMNS), filter=pc.field("split") == split).sort_by("pair_id")
    return [_pair(row) for row in table.to_pylist()]


def decode_batch(batch: Mapping[str, np.ndarray]) -> list[Pair]:
    """The pairs of one Ray Data batch (column name -> values)."""
    names = list(batch)
    return [_pair(dict(zip(names, values, strict=True))) for values in zip(*batch.values(), strict=True)]


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
        pair.kind, pair.n_perturb, tuple(mirror_text(word) for word in pair.changed),
    )  # fmt: skip


def compare(pairs: Sequence[Pair], both_prompts: bool) -> Comparisons:
    """Every image_w should beat its image_l under the prompt; the other way round under the perturbed prompt."""
    images: list[np.ndarray] = []
    prompts: list[str] = []
    index: list[int] = []
    winners: list[int] = []
    for pair in pairs:
        first = len(images)
        images += [pair.image_w, pair.image_l]
        ordered = [(pair.prompt, first, first + 1)]
        if both_prompts and pair.perturbed_prompt:
            ordered.append((pair.perturbed_prompt, first + 1, first))
        for prompt, better, worse in ordered:
            winners.append(len(prompts))
            prompts += [prompt, prompt]
            index += [better, worse]
    losers = tuple(row + 1 for row in winners)
    return Comparisons(tuple(images), tuple(prompts), tuple(index), tuple(winners), losers)


def _pair(row: Mapping[str, object]) -> Pair:
    image_w, image_l, perturbed = row["image_w"], row["image_l"], row["perturbed_prompt"]
    assert isinstance(image_w, Mapping) and isinstance(image_l, Mapping)
    return Pair(
        str(row["pair_id"]), str(row["prompt"]), str(perturbed) if perturbed else None,
        decode(image_w["bytes"]), decode(image_l["bytes"]), str(row["kind"]), int(str(row["n_perturb"])),
        _changed(row),
    )  # fmt: skip


def _changed(row: Mapping[str, object]) -> tuple[str, ...]:
    """Words of the prompt's relations that a perturbation names as what it changed."""
    relations, perturbations = row["relations"], row["perturbations"]
    assert isinstance(relations, Iterable) and isinstance(perturbations, Iterable)
    before = {change["from"] for change in perturbations}
    return tuple(
        one["relation"] for one in relations if f"{one['subject']} {one['relation']} {one['object']}" in before
    )
