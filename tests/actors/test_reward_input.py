"""The checks of prompts and images that every entrance and every reward shares."""

from __future__ import annotations

import numpy as np
import pytest

from actors.reward_input import InputError, check_inputs, check_pixels, check_prompt
from tests.support.imported import imported

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "prompt",
    [
        "a",
        "a red circle\tleft of\na blue square",
        "苹果在盘子的左边",
        "🍎 left of 🍏",
        "x" * 4000,
        "<reward> <|im_end|>",
        "\ufffd",
    ],
)
def test_text_of_any_language_is_a_prompt(prompt: str) -> None:
    check_prompt(prompt)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "must not be blank, got none"),
        (" \u00a0", "must not be blank, got 2 characters, none of them visible"),
        ("\u200b\ufeff\u2028", "must not be blank, got 3 characters"),
        ("x" * 4001, "at most 4000 characters, got 4001"),
        ("a \ud800", r"half of a surrogate pair, U\+D800, at position 2"),
        ("\udfff", r"half of a surrogate pair, U\+DFFF, at position 0"),
        ("a\x00b", r"a control character, U\+0000, at position 1"),
        ("a\x7f", r"a control character, U\+007F, at position 1"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused_with_the_right_reason(prompt: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_prompt(prompt)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((8, 8, 3), np.float32), r"uint8 \[H, W, 3\], got float32 \[8, 8, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[H, W, 3\]"),
        (np.zeros((8, 8), np.uint8), r"uint8 \[H, W, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), "8 x 0 pixels"),
        (np.zeros((1, 201, 3), np.uint8), "201 x 1 pixels: its sides may differ by a factor of 200"),
        (np.zeros((402, 2, 3), np.uint8), "2 x 402 pixels"),
    ],
)
def test_pixels_that_no_reward_reads_are_refused(image: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_pixels(image)
    with pytest.raises(ValueError, match=reason):
        check_inputs([IMAGE, image], ["a", "b"])


def test_every_image_needs_its_prompt() -> None:
    check_inputs([IMAGE, np.zeros((200, 1, 3), np.uint8)], ["a", "b"])
    for prompts, reason in ((["a", "b"], "1 images and 2 prompts"), ("a", "got one text"), (["\x00"], "control")):
        with pytest.raises(InputError, match=reason):
            check_inputs([IMAGE], prompts)


def test_the_checks_need_no_torch() -> None:
    assert not imported("actors.reward_input") & {"torch", "ray", "transformers"}
