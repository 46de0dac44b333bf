# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""The error rate of the exact checker, on rendered images and on the same images after a round trip through the VAE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from diffusers import AutoencoderKL

from pipelines.pretrain.vae import decode, encode
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.checker import inspect
from pipelines.scenes.grammar import write_scene
from pipelines.scenes.render import (
    Placement,
    lay_out,
    render,
    with_double,
    with_missing,
    with_recoloured,
)

MAX_OFFSET = 2.0
"""Pixels by which the checker's centre of an object may differ from the true one."""


@dataclass(frozen=True)
class ErrorRate:
    """The number of misread images: a wrong name, a wrong count, or a centre that is off by MAX_OFFSET or more."""

    wrong: int
    images: int

    @property
    def rate(self) -> float:
        """Share of images that are misread."""
        return self.wrong / self.images


def truth_scenes(count: int, seed: int) -> tuple[list[tuple[Placement, ...]], np.ndarray]:
    """Returns placements and their images, uint8 [count, 64, 64, 3].

    Every fourth scene has a missing, doubled or recoloured object.
    """
    rng = np.random.default_rng(seed)
    corrupt = (with_missing, with_double, with_recoloured)
    placements: list[tuple[Placement, ...]] = []
    for index in range(count):
        placed = lay_out(write_scene(rng, int(rng.integers(2, 5))), rng)
        placements.append(corrupt[index // 4 % 3](placed, rng) if index % 4 == 0 else placed)
    return placements, np.stack([render(placed, rng) for placed in placements])


def error_rate(placements: Sequence[tuple[Placement, ...]], images: np.ndarray) -> ErrorRate:
    """Compares what the checker reads in each image with its placements."""
    wrong = sum(not _agrees(placed, image) for placed, image in zip(placements, images, strict=True))
    return ErrorRate(wrong, len(placements))


def print_error_rates(count: int = 3000, seed: int = 11) -> None:
    """Measures and prints both rates."""
    placements, rendered = truth_scenes(count, seed)
    vae = AutoencoderKL.from_pretrained(checkpoints_dir("flux") / "vae")
    for name, images in (("rendered", rendered), ("VAE round trip", decode(vae, encode(vae, rendered)))):
        measured = error_rate(placements, images)
        print(f"checker, {name}: {measured.wrong} of {measured.images} images misread ({measured.rate:.2%})")


def _agrees(placed: Sequence[Placement], image: np.ndarray) -> bool:
    found = {each.obj.name: each for each in inspect(image)}
    names = [placement.obj.name for placement in placed]
    once = [placement for placement in placed if names.count(placement.obj.name) == 1]
    if {placement.obj.name for placement in once} != set(found):
        return False
    return all(np.hypot(found[p.obj.name].x - p.x, found[p.obj.name].y - p.y) < MAX_OFFSET for p in once)
