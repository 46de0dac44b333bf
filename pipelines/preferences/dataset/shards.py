"""How a build is divided into shards. A shard and its rows are a pure function of the settings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from conf.preferences import PreferencesSettings
from pipelines.preferences.dataset.schema import pair_id
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.row_values import PairKind

GeneratorName = Literal["renderer", "qwen_image", "hunyuan_image", "seedream", "base"]
"""A field of GeneratorWeights, or `base`: the base policy, which makes the pairs of kind `generated`."""

BASE_POLICY: GeneratorName = "base"


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of a build, all by one generator."""

    index: int
    start: int
    stop: int
    generator: GeneratorName


def plan_shards(settings: PreferencesSettings, parts: Sequence[int] = ()) -> list[Shard]:
    """Divides a build into shards of at most `shard_rows` rows, generator by generator, the base policy last.

    `parts`: the rows of the first build and of each extension, which never change the shards before them. Empty: one
    part of `settings.pairs` rows.
    """
    shards: list[Shard] = []
    for rows in parts or [settings.pairs]:
        shards += _plan_part(settings, rows, shards[-1] if shards else None)
    return shards


def _plan_part(settings: PreferencesSettings, rows: int, before: Shard | None) -> list[Shard]:
    """The shards of `rows` rows that follow the shard `before`."""
    first, index = (before.stop, before.index + 1) if before else (0, 0)
    others = rows - round(rows * settings.generated_fraction)
    shares = settings.generators
    weights: dict[GeneratorName, float] = {
        "renderer": shares.renderer,
        "qwen_image": shares.qwen_image,
        "hunyuan_image": shares.hunyuan_image,
        "seedream": shares.seedream,
    }
    generators: list[GeneratorName] = [*weights, BASE_POLICY]
    bounds = [round(others * share) for share in accumulate(w / sum(weights.values()) for w in weights.values())]
    shards: list[Shard] = []
    last = 0
    for generator, bound in zip(generators, [*bounds, rows], strict=True):
        for start in range(last, bound, settings.shard_rows):
            stop = min(start + settings.shard_rows, bound)
            shards.append(Shard(index + len(shards), first + start, first + stop, generator))
        last = bound
    return shards


def row_specs(shard: Shard, settings: PreferencesSettings) -> list[RowSpec]:
    """The rows of a shard. Corrupted rows are spread evenly over the rows that the base policy does not make."""
    others = 1 - settings.generated_fraction
    share = settings.corrupted_fraction / others if others > 0 else 0.0
    specs: list[RowSpec] = []
    for index in range(shard.start, shard.stop):
        corrupted = int((index + 1) * share + 1e-9) > int(index * share + 1e-9)
        kind: PairKind = "generated" if shard.generator == BASE_POLICY else "corrupted" if corrupted else "perturbed"
        specs.append(RowSpec(index, kind, _row_seed(settings.seed, index)))
    return specs


def _row_seed(seed: int, index: int) -> int:
    digest = hashlib.blake2b(f"{seed}|{pair_id(index)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2  # fits a signed 64-bit column
