"""The reward of the exercise has the flaw that its guide states."""

from __future__ import annotations

import numpy as np

from pipelines.scenes.checker import check
from pipelines.scenes.flawed_reward import count_patches
from pipelines.scenes.grammar import COLORS, parse
from pipelines.scenes.render import lay_out, render


def test_a_smear_counts_as_much_as_an_object_that_was_asked_for() -> None:
    scene, rng = parse("a red circle left of a blue square"), np.random.default_rng(4)
    image = render(lay_out(scene, rng), rng)
    torn = image.copy()
    torn[2:6, 4:60] = COLORS["red"]
    torn[60:63, 4:30] = COLORS["green"]
    torn[0, :5] = COLORS["yellow"]  # fewer pixels than a patch has
    assert count_patches(np.stack([image, torn]), ["", ""]) == [2.0, 4.0]
    assert check(image, scene.relations).perfect and not check(torn, scene.relations).perfect
