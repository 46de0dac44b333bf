# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""How often is the exact checker wrong? Measured on pictures whose truth is known: rendered, and VAE-round-tripped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True)
class ErrorRate:
    """Pictures whose reading differs from the truth: in a name, in a count, or by over 2 pixels in a place."""

    wrong: int
    pictures: int

    @property
    def rate(self) -> float:
        return self.wrong / self.pictures


def truth_scenes(count: int, seed: int) -> tuple[list[tuple[Placement, ...]], np.ndarray]:
    """Placements, every fourth with a missing, doubled or recoloured object; pictures, uint8 [count, 64, 64, 3]."""
    rng = np.random.default_rng(seed)
    spoil = (with_missing, with_double, with_recoloured)
    placements = []
    for index in range(count):
        placed = lay_out(write_scene(rng, int(rng.integers(2, 5))), rng)
        placements.append(spoil[index // 4 % 3](placed, rng) if index % 4 == 0 else placed)
    return placements, np.stack([render(placed, rng) for placed in placements])


def error_rate(placements: Sequence[tuple[Placement, ...]], images: np.ndarray) -> ErrorRate:
    """Compares what the checker reads in `images` with what was drawn."""
    wrong = sum(not _agrees(placed, image) for placed, image in zip(placements, images, strict=True))
    return ErrorRate(wrong, len(placements))


def print_error_rates(count: int = 3000, seed: int = 11) -> None:
    """Measures both rates and prints them."""
    from diffusers import AutoencoderKL

    from pipelines.pretrain.vae import decode, encode

    placements, images = truth_scenes(count, seed)
    vae = AutoencoderKL.from_pretrained(checkpoints_dir("flux") / "vae")
    for name, pictures in (("rendered", images), ("VAE round trip", decode(vae, encode(vae, images)))):
        measured = error_rate(placements, pictures)
        print(f"checker, {name}: {measured.wrong} of {measured.pictures} pictures misread ({measured.rate:.2%})")


def _agrees(placed: Sequence[Placement], image: np.ndarray) -> bool:
    seen = {found.obj.name: found for found in inspect(image)}
    names = [placement.obj.name for placement in placed]
    once = [placement for placement in placed if names.count(placement.obj.name) == 1]
    if {placement.obj.name for placement in once} != set(seen):
        return False
    return all(np.hypot(seen[p.obj.name].x - p.x, seen[p.obj.name].y - p.y) < 2.0 for p in once)
