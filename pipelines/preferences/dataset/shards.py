"""How a build is divided into shards. A shard and its rows are a pure function of the settings."""

from __future__ import annotations

import hashlib
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


def plan_shards(settings: PreferencesSettings) -> list[Shard]:
    """Divides a build into shards of at most `shard_rows` rows, generator by generator, the base policy last."""
    others = settings.pairs - round(settings.pairs * settings.generated_fraction)
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
    for generator, bound in zip(generators, [*bounds, settings.pairs], strict=True):
        for start in range(last, bound, settings.shard_rows):
            shards.append(Shard(len(shards), start, min(start + settings.shard_rows, bound), generator))
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
