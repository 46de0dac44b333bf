"""Stage 1: preference pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.rules import Section, at_least, between


@dataclass(frozen=True)
class GeneratorWeights(Section):
    """Shares of the generators in the pairs that the base policy does not make. One generator makes both images."""

    section: ClassVar[str] = "preferences.generators"

    renderer: float = field(default=1.0, metadata=at_least(0))
    """Weight of the exact renderer of the scenes world."""

    qwen_image: float = field(default=0.0, metadata=at_least(0))
    """Weight of Qwen-Image. Section qwen_image."""

    hunyuan_image: float = field(default=0.0, metadata=at_least(0))
    """Weight of HunyuanImage. Section hunyuan_image."""

    seedream: float = field(default=0.0, metadata=at_least(0))
    """Weight of Seedream. Section seedream."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any((self.renderer, self.qwen_image, self.hunyuan_image, self.seedream)):
            raise SettingsError("preferences.generators needs a weight above 0, e.g. preferences.generators.renderer=1")


@dataclass(frozen=True)
class PreferencesSettings(Section):
    """Stage 1: how many pairs, of which kinds, and how they are made."""

    section: ClassVar[str] = "preferences"

    pairs: int = field(default=6000, metadata=at_least(10))
    """Candidate pairs to make. A build with fewer is extended. Paper: more than 80,000 before the review."""

    target: int = field(default=0, metadata=at_least(0))
    """Accepted pairs until which `preferences extend` adds candidates. 0: `pairs`. Paper: 80,000."""

    expected_yield: float = field(default=0.25, metadata=between(0.01, 1))
    """Accepted pairs of a candidate, until a review has measured it."""

    seed: int = field(default=0, metadata=at_least(0))
    """Seed of prompts, edits and images."""

    shard_rows: int = field(default=250, metadata=at_least(1))
    """Rows of a parquet file."""

    test_fraction: float = field(default=0.1, metadata=between(0, 1))
    """Fraction of prompt groups in the split test."""

    single_edit_fraction: float = field(default=0.5, metadata=between(0, 1))
    """Fraction of perturbed pairs with exactly one changed relation. The others have two or three."""

    corrupted_fraction: float = field(default=0.2, metadata=between(0, 1))
    """Fraction of pairs whose losing image lacks, doubles or recolours an object. Scenes world only. Paper: 0."""

    generated_fraction: float = field(default=0.4, metadata=between(0, 1))
    """Fraction of pairs that the base policy generates and the exact checker labels. Scenes world only. Paper: 0."""

    writer: Literal["scenes", "chat"] = "scenes"
    """Who writes prompts: the scenes grammar, or a chat model (section writer). Paper: GPT-5."""

    perturber: Literal["scenes", "chat"] = "scenes"
    """Who changes relations: the scenes grammar, or a chat model (section perturber). Paper: GPT-5."""

    reviewer: Literal["scenes", "annotators"] = "scenes"
    """Who checks pairs: the exact checker, or annotators (pairs stay pending until reviewed). Paper: annotators."""

    image_check: Literal["none", "judge"] = "none"
    """Who checks the claims of each image before annotators see it: nobody, or a model (section claim_judge)."""

    tries: int = field(default=4, metadata=at_least(1))
    """Images of each side of a pair at most, until one passes the check. Then the row is dropped."""

    audit_fraction: float = field(default=0.02, metadata=between(0, 1))
    """Fraction of the rows that keep their first images whatever the check says, so that its errors are measured."""

    generators: GeneratorWeights = field(default_factory=GeneratorWeights)
    """Shares of the image generators."""

    keep: Literal["png", "jpeg95", "webp90"] = "png"
    """Format of the images in the rows, which review and training read. The renderer and the base policy keep PNG."""

    max_side: int = field(default=0, metadata=at_least(0))
    """Longest side of these images in pixels; larger ones are reduced. 0: as generated."""

    masters: str = ""
    """Folder or URI (s3://…, gs://…) of the images as they were generated, as PNG. Empty: they are not kept."""

    near_duplicate_words: float = field(default=0.0, metadata=between(0, 1))
    """Prompts that share this fraction of their 3-word sequences count as duplicates. 0: keep duplicates."""

    batch_size: int = field(default=50, metadata=at_least(1))
    """Pairs that a generator makes in one call."""

    generator_actors: int = field(default=2, metadata=at_least(1))
    """Actors that hold the base policy and generate pairs."""

    generator_threads: int = field(default=1, metadata=at_least(1))
    """CPU threads of such an actor."""

    generator_cpus: float = 0.1
    """Ray CPUs that such an actor reserves. The number of threads decides what it uses."""

    generator_gpus: float = 0.0
    """Ray GPUs that such an actor reserves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrupted_fraction + self.generated_fraction > 1.0:
            raise SettingsError(
                "preferences.corrupted_fraction + preferences.generated_fraction must be at most 1, got "
                f"{self.corrupted_fraction} + {self.generated_fraction}: lower one of them"
            )
        if self.image_check == "judge" and self.generated_fraction:
            raise SettingsError(
                "preferences.image_check=judge cannot check pairs that the base policy generates, got "
                f"preferences.generated_fraction={self.generated_fraction}: set it to 0"
            )
        if self.image_check == "judge" and self.generators.renderer:
            raise SettingsError(
                "preferences.image_check=judge does not check the renderer, whose images are right by construction: "
                "set preferences.generators.renderer=0, or preferences.image_check=none"
            )
        in_scenes = self.writer == self.perturber == self.reviewer == "scenes"
        only_renderer = not (self.generators.qwen_image or self.generators.hunyuan_image or self.generators.seedream)
        if (self.corrupted_fraction or self.generated_fraction) and not (in_scenes and only_renderer):
            raise SettingsError(
                "corrupted and generated pairs exist in the scenes world only, got preferences.corrupted_fraction="
                f"{self.corrupted_fraction}, preferences.generated_fraction={self.generated_fraction} with other "
                "roles or generators: set both to 0"
            )
