"""Stage 1: preference pairs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from conf.rules import at_least, between, one_of


@dataclass(frozen=True)
class GeneratorMixSettings:
    """Share of each painter in the pairs that are not the base policy's: weights. Both pictures of a pair are one's."""

    renderer: float = 1.0  # draws sentences of the scenes world, exactly
    qwen_image: float = 0.0  # section `qwen_image`
    hunyuan_image: float = 0.0  # section `hunyuan_image`
    seedream: float = 0.0  # section `seedream`

    def __post_init__(self) -> None:
        weights = (self.renderer, self.qwen_image, self.hunyuan_image, self.seedream)
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"preferences.mix must hold weights of at least 0, one of them above, got {weights}")


@dataclass(frozen=True)
class DiffusersSettings:
    """A painter of diffusers that runs on actors of its own."""

    model: str = ""  # a directory in diffusers format, or a hub id
    height: int = 1024  # pixels
    width: int = 1024  # pixels
    steps: int = 50
    guidance: float = 4.0  # true_cfg_scale of Qwen-Image, distilled_guidance_scale of HunyuanImage
    dtype: str = "bfloat16"  # float32 | bfloat16
    offload: str = "none"  # none | model (one part at a time on the GPU) | sequential (one layer; slow, smallest)
    batch: int = 4  # pictures in one call
    actors: int = 1
    threads: int = 4
    cpus: float = 1.0  # Ray CPUs an actor reserves
    gpus: float = 1.0  # Ray GPUs an actor reserves

    def __post_init__(self) -> None:
        one_of("dtype of a diffusers painter", self.dtype, ("float32", "bfloat16"))
        one_of("offload of a diffusers painter", self.offload, ("none", "model", "sequential"))
        for name in ("height", "width", "steps", "batch", "actors", "threads"):
            at_least(f"{name} of a diffusers painter", getattr(self, name), 1)
        if self.offload != "none" and not self.gpus:
            raise ValueError(f"offload={self.offload} moves parts of a model to a GPU, but gpus=0: reserve one")

    def identity(self) -> DiffusersSettings:
        """Only what decides the pictures: where and how many at once at their defaults."""
        plain = DiffusersSettings()
        return replace(
            self, offload=plain.offload, batch=plain.batch, actors=plain.actors, threads=plain.threads, cpus=plain.cpus,
            gpus=plain.gpus,
        )  # fmt: skip


@dataclass(frozen=True)
class PreferencesSettings:
    """Stage 1: how many pairs, of which kinds, and where they go."""

    pairs: int = 6000  # rows to write
    seed: int = 0
    shard_rows: int = 250  # rows of a parquet file
    test_fraction: float = 0.1  # share of prompt groups kept for the `test` split
    perturb_one: float = 0.5  # share of perturbed pairs with exactly one changed relation; the others have 2 or 3
    exploit_fraction: float = 0.2  # pairs whose loser has a missing, doubled or recoloured object
    generated_fraction: float = 0.4  # pairs drawn by the base policy and labelled by the checker
    writer: str = "scenes"  # scenes (the grammar) | chat (section `writer`)
    perturber: str = "scenes"  # scenes (the grammar) | chat (section `perturber`)
    reviewer: str = "scenes"  # scenes (the exact checker) | people (rows stay pending until they are reviewed)
    mix: GeneratorMixSettings = field(default_factory=GeneratorMixSettings)
    near_duplicate_words: float = 0.0  # prompts that share this much of their 3-word sequences are one; 0: not removed
    benchmark_one: int = 0  # pairs of the `benchmark` split with one changed relation
    benchmark_more: int = 0  # and with two or three
    batch_size: int = 50  # pairs a painter draws at once
    painters: int = 2  # actors that hold the base policy and draw generated pairs
    painter_threads: int = 1
    painter_cpus: float = 0.1  # Ray CPUs such an actor reserves; threads, not this, decide what it uses
    painter_gpus: float = 0.0  # Ray GPUs such an actor reserves

    def __post_init__(self) -> None:
        at_least("preferences.pairs", self.pairs, 10)
        one_of("preferences.writer", self.writer, ("scenes", "chat"))
        one_of("preferences.perturber", self.perturber, ("scenes", "chat"))
        one_of("preferences.reviewer", self.reviewer, ("scenes", "people"))
        at_least("preferences.benchmark_one", self.benchmark_one, 0)
        at_least("preferences.benchmark_more", self.benchmark_more, 0)
        at_least("preferences.shard_rows", self.shard_rows, 1)
        at_least("preferences.batch_size", self.batch_size, 1)
        at_least("preferences.painters", self.painters, 1)
        at_least("preferences.painter_threads", self.painter_threads, 1)
        for name in ("test_fraction", "perturb_one", "exploit_fraction", "generated_fraction", "near_duplicate_words"):
            between(f"preferences.{name}", getattr(self, name), 0.0, 1.0)
        if self.exploit_fraction + self.generated_fraction > 1.0:
            raise ValueError(
                "preferences.exploit_fraction + preferences.generated_fraction must be at most 1, got "
                f"{self.exploit_fraction} + {self.generated_fraction}: lower one of them"
            )
        in_scenes = self.writer == self.perturber == self.reviewer == "scenes"
        only_renderer = not (self.mix.qwen_image or self.mix.hunyuan_image or self.mix.seedream)
        if (self.exploit_fraction or self.generated_fraction) and not (in_scenes and only_renderer):
            raise ValueError(
                "exploits and generated pairs exist in the scenes world only, got preferences.exploit_fraction="
                f"{self.exploit_fraction}, generated_fraction={self.generated_fraction} with other roles: set both to 0"
            )
