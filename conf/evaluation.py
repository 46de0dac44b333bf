"""Stage 4, and single samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from conf.rules import Section, at_least, between


@dataclass(frozen=True)
class EvaluationSettings(Section):
    """Stage 4: images of held-out prompts before and after training, scored by SpatialScore and the exact checker."""

    section: ClassVar[str] = "evaluation"

    short_prompts: int = field(default=120, metadata=at_least(0))
    """Held-out prompts with one relation. The scenes grammar has about 150."""

    long_prompts: int = field(default=160, metadata=at_least(0))
    """Held-out prompts with several relations."""

    images_per_prompt: int = field(default=2, metadata=at_least(1))
    """Images of each prompt."""

    denoise_steps: int = field(default=28, metadata=at_least(1))
    """Denoise steps of an evaluation image. Flow-GRPO: 28. Training uses policy.sampling.denoise_steps."""

    seed: int = field(default=1000, metadata=at_least(0))
    """Seed of the images; the same before and after training."""

    batch_prompts: int = field(default=12, metadata=at_least(1))
    """Prompts that are sampled together."""

    use_ema: bool = True
    """Evaluate the moving average of the LoRA weights instead of the last weights."""


@dataclass(frozen=True)
class SampleSettings(Section):
    """`policy sample`: images of texts by the base policy and by the trained policy."""

    section: ClassVar[str] = "sample"

    text: tuple[str, ...] = ()
    """The prompts; each gets a PNG file of its own. On the command line, words in quotes set this."""

    images: int = field(default=4, metadata=between(1, 64))
    """Images of each prompt by each policy."""

    seed: int = field(default=0, metadata=at_least(0))
    """Seed of the images; the same for both policies."""

    out: str = ""
    """PNG file, for one prompt only. Empty: in <run_dir>/samples, named after text, seed, policy version and size."""
