"""From preference rows to comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf import UserError
from pipelines.common.images import StoredImage
from pipelines.preferences.dataset.schema import SCHEMA
from pipelines.reward.data import Pair, compare, mirror_text, mirrored, read_rows, require_held_out_pairs
from pipelines.scenes.grammar import mirror, parse

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


def test_an_unreadable_row_is_listed_and_not_replaced() -> None:
    good = {"bytes": StoredImage.of(np.zeros((64, 64, 3), np.uint8), "test", 0).png}
    row = {
        "pair_id": "a",
        "group_id": "g",
        "prompt": "a red circle",
        "perturbed_prompt": None,
        "image_w": good,
        "image_l": good,
        "kind": "perturbed",
        "n_perturb": 1,
        "relations": [],
        "perturbations": [],
    }

    def check(text: str) -> None:
        if not text.strip():
            raise ValueError("a prompt must not be empty")

    damage = {
        "not an image": {"image_w": {"bytes": b"not an image"}},
        "truncated": {"image_l": {"bytes": good["bytes"][:60]}},
        "null": {"image_l": None},
        "no text": {"prompt": " "},
    }
    rows = [row, *({**row, "pair_id": name, **change} for name, change in damage.items()), {**row, "pair_id": "z"}]
    decoded = read_rows(rows, check)
    assert [pair.pair_id for pair in decoded.pairs] == ["a", "z"]
    assert [unreadable.pair_id for unreadable in decoded.unreadable] == list(damage)
    assert all(": " in unreadable.reason for unreadable in decoded.unreadable)


def test_a_dataset_without_held_out_pairs_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        require_held_out_pairs(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        require_held_out_pairs(str(tmp_path / "empty"))
    pq.write_table(pa.Table.from_pylist([{"split": "train"}] * 3, schema=SCHEMA), tmp_path / "0.parquet")
    with pytest.raises(UserError, match=r"raise preferences\.test_fraction"):
        require_held_out_pairs(str(tmp_path))
    pq.write_table(pa.Table.from_pylist([{"split": "test"}], schema=SCHEMA), tmp_path / "1.parquet")
    require_held_out_pairs(str(tmp_path))
