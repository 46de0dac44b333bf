"""From preference rows to comparisons."""

from __future__ import annotations

import numpy as np

from pipelines.common.images import StoredImage
from pipelines.reward.data import Pair, compare, mirror_text, mirrored, read_rows
from pipelines.scenes.grammar import mirror, parse

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def _pair(number: int, perturbed: str | None) -> Pair:
    return Pair(f"{number}", "a red circle left of a blue square", perturbed, IMAGE, 255 - IMAGE, "perturbed", 1)


def test_mirrored_text_is_the_scene_in_a_mirror() -> None:
    for text in (
        "a red circle left of a blue square",
        "a red circle above a blue square that is right of a black circle",
    ):
        assert mirror_text(text) == mirror(parse(text)).text
    assert mirror_text("The leftmost cup, RIGHT of the Left plate") == "The rightmost cup, LEFT of the Right plate"
    assert mirror_text("upright, alright") == "upright, alright"


def test_a_mirrored_pair_keeps_its_order_and_flips_columns() -> None:
    pair = mirrored(_pair(0, "a red circle right of a blue square"))
    assert pair.perturbed_prompt == "a red circle left of a blue square"
    assert np.array_equal(pair.image_w[:, 0], IMAGE[:, -1])
    assert np.array_equal(pair.image_l, 255 - pair.image_w)


def test_each_image_wins_under_its_own_prompt() -> None:
    pairs = [_pair(0, "a red circle right of a blue square"), _pair(1, None)]
    both = compare(pairs, both_prompts=True)
    assert len(both.images) == 4
    wins = [(both.prompts[w], both.image_index[w], both.image_index[l]) for w, l in zip(both.winners, both.losers)]  # noqa: B905, E741
    assert wins == [(pairs[0].prompt, 0, 1), (pairs[0].perturbed_prompt, 1, 0), (pairs[1].prompt, 2, 3)]
    assert compare(pairs, both_prompts=False).winners == (0, 2)


def test_a_row_that_cannot_be_read_is_named_and_not_replaced() -> None:
    good = {"bytes": StoredImage.of(np.zeros((64, 64, 3), np.uint8), "test", 0).png}
    row = {
        "pair_id": "a", "group_id": "g", "prompt": "a red circle", "perturbed_prompt": None,
        "image_w": good, "image_l": good, "kind": "perturbed", "n_perturb": 1, "relations": [], "perturbations": [],
    }  # fmt: skip

    def check(text: str) -> None:
        if not text.strip():
            raise ValueError("a prompt must not be empty")

    spoiled = {
        "no image": {"image_w": {"bytes": b"no image"}},
        "cut off": {"image_l": {"bytes": good["bytes"][:60]}},
        "null": {"image_l": None},
        "no text": {"prompt": " "},
    }
    rows = [row, *({**row, "pair_id": name, **change} for name, change in spoiled.items()), {**row, "pair_id": "z"}]
    pairs, unreadable = read_rows(rows, check)
    assert [pair.pair_id for pair in pairs] == ["a", "z"]
    assert [one.pair_id for one in unreadable] == list(spoiled)
    assert all(": " in one.reason for one in unreadable)
