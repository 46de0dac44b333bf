"""From preference rows to comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.reward_input import check_prompt
from conf import UserError
from pipelines.common.images import encode_png
from pipelines.preferences.dataset.schema import SCHEMA
from pipelines.reward.data import Pair, compare, mirror_text, mirrored, read_pairs, read_rows, require_held_out_pairs
from pipelines.scenes.grammar import mirror, parse
from tests.support.pair_sources import ACCEPTED, source_of

TEST = ("test",)
IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def _pair(number: int, perturbed: str | None) -> Pair:
    return Pair(f"{number}", "a red circle left of a blue square", perturbed, IMAGE, 255 - IMAGE, "perturbed", 1)


def test_mirrored_text_describes_the_mirrored_scene() -> None:
    for text in (
        "a red circle left of a blue square",
        "a red circle above a blue square that is right of a black circle",
    ):
        assert mirror_text(text) == mirror(parse(text)).text
    assert mirror_text("The leftmost cup, RIGHT of the Left plate") == "The rightmost cup, LEFT of the Right plate"
    assert mirror_text("upright, alright") == "upright, alright"


def test_a_mirrored_pair_keeps_its_order_and_flips_columns() -> None:
    pair = mirrored(_pair(0, "a red circle right of a blue square"))
    assert pair.prompt == "a red circle right of a blue square"
    assert pair.perturbed_prompt == "a red circle left of a blue square"
    assert np.array_equal(pair.image_w[:, 0], IMAGE[:, -1])
    assert np.array_equal(pair.image_l, 255 - pair.image_w)


def test_each_image_wins_under_its_own_prompt() -> None:
    pairs = [_pair(0, "a red circle right of a blue square"), _pair(1, None)]
    both = compare(pairs, both_prompts=True)
    assert len(both.images) == 4
    wins = [
        (both.prompts[w], both.prompts[l], both.image_index[w], both.image_index[l])
        for w, l in zip(both.winners, both.losers, strict=True)  # noqa: E741
    ]
    first, perturbed, second = pairs[0].prompt, pairs[0].perturbed_prompt, pairs[1].prompt
    assert wins == [(first, first, 0, 1), (perturbed, perturbed, 1, 0), (second, second, 2, 3)]
    assert both.pairs == (0, 0, 1)
    assert compare(pairs, both_prompts=False).winners == (0, 2)


GOOD = {"bytes": encode_png(np.zeros((64, 64, 3), np.uint8)), "sha256": "", "phash": ""}
ROW: dict[str, Any] = {
    "pair_id": "a",
    "group_id": "g",
    "split": "test",
    "prompt": "a red circle",
    "perturbed_prompt": None,
    "image_w": GOOD,
    "image_l": GOOD,
    "kind": "perturbed",
    "n_perturb": 1,
    "relations": [],
    "perturbations": [],
    "review": ACCEPTED,
}


def _with(image: bytes | None) -> dict[str, Any]:
    return {**GOOD, "bytes": image}


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "not an image": ({"image_w": _with(b"not an image")}, "image_w: the image is not a readable PNG, JPEG or WEBP"),
    "truncated": (
        {"image_l": _with(encode_png(np.zeros((64, 64, 3), np.uint8))[:60])},
        "image_l: the image is damaged or truncated",
    ),
    "too long": ({"image_l": _with(encode_png(np.zeros((2, 402, 3), np.uint8)))}, "image_l: the image has 402 x 2"),
    "no bytes": ({"image_l": _with(None)}, "image_l has no image"),
    "empty": ({"image_l": _with(b"")}, "image_l: the image is empty"),
    "null": ({"image_w": None}, "image_w has no image"),
    "no prompt": ({"prompt": None}, "there is no prompt"),
    "blank prompt": ({"prompt": " "}, "must not be blank"),
    "blank perturbed prompt": ({"perturbed_prompt": "\n"}, "must not be blank"),
    "long prompt": ({"prompt": "a" * 4001}, "at most 4000 characters"),
    "no number of changes": ({"n_perturb": None}, "None"),
}
"""Changes of a row, and the reason that they lead to."""


def test_an_unreadable_row_is_listed_with_its_reason_and_not_replaced() -> None:
    changed = [{**ROW, "pair_id": name, **change} for name, (change, _) in DAMAGE.items()]
    decoded = read_rows([ROW, *changed, {**ROW, "pair_id": "z", "relations": None}], check_prompt)
    assert [pair.pair_id for pair in decoded.pairs] == ["a", "z"]
    assert [row.pair_id for row in decoded.unreadable] == list(DAMAGE)
    for row, (_, reason) in zip(decoded.unreadable, DAMAGE.values(), strict=True):
        assert reason in row.reason


def _write(folder: Path, good: int, bad: int) -> str:
    """Writes a dataset. The bad rows are first by name."""
    rows = [{**ROW, "pair_id": f"a{n}", "image_w": _with(b"GIF89a...")} for n in range(bad)]
    rows += [{**ROW, "pair_id": f"b{n}"} for n in range(good)]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "test-0.parquet")
    return str(folder)


def test_a_few_unreadable_pairs_are_left_out_and_named(tmp_path: Path) -> None:
    decoded = read_pairs(source_of(_write(tmp_path / "small", 5, 1)), TEST)
    assert [pair.pair_id for pair in decoded.pairs] == [f"b{n}" for n in range(5)]
    assert decoded.left_out.startswith("1 of 6 pairs cannot be read and are left out (a0: image_w: the image is not a")
    large = read_pairs(source_of(_write(tmp_path / "large", 60, 6)), TEST)
    assert "a0: " in large.left_out and "a2: " in large.left_out and "a3: " not in large.left_out
    assert large.left_out.endswith("; and 3 more)")
    assert read_pairs(source_of(_write(tmp_path / "whole", 3, 0)), TEST).left_out == ""
    assert len(read_pairs(source_of(tmp_path / "small"), TEST, limit=3).pairs) == 2


def test_a_limit_takes_pairs_of_all_folders_evenly(tmp_path: Path) -> None:
    source = source_of(*(_write(tmp_path / name, good, 0) for name, good in (("x", 9), ("y", 1), ("z", 9))))
    assert [pair.pair_id for pair in read_pairs(source, TEST, limit=6).pairs] == ["b0", "b1", "b2", "b0", "b0", "b1"]


@pytest.mark.parametrize(("good", "bad"), [(0, 1), (0, 3), (9, 4), (44, 5)])
def test_too_many_unreadable_pairs_are_a_user_error(tmp_path: Path, good: int, bad: int) -> None:
    folder = _write(tmp_path / "pairs", good, bad)
    with pytest.raises(UserError, match=rf"{bad} of {good + bad} pairs cannot be read.*a0: .* at most 10%, or 3 pairs"):
        read_pairs(source_of(folder), TEST)


def test_files_without_the_columns_of_pairs_are_a_user_error(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW], schema=SCHEMA).drop_columns(["image_l", "kind"])
    pq.write_table(table, tmp_path / "test-0.parquet")
    with pytest.raises(UserError, match=r"got no column image_l, kind: see docs/preferences\.md"):
        require_held_out_pairs(source_of(tmp_path))


def test_a_dataset_without_held_out_pairs_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        require_held_out_pairs(source_of(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        require_held_out_pairs(source_of(tmp_path / "empty"))
    pq.write_table(
        pa.Table.from_pylist([{"split": "train", "review": ACCEPTED}] * 3, schema=SCHEMA), tmp_path / "0.parquet"
    )
    with pytest.raises(UserError, match=r"raise preferences\.test_fraction"):
        require_held_out_pairs(source_of(tmp_path))
    pq.write_table(pa.Table.from_pylist([{"split": "test", "review": ACCEPTED}], schema=SCHEMA), tmp_path / "1.parquet")
    require_held_out_pairs(source_of(tmp_path))
