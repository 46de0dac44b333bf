"""Stage 4, and single samples."""

from __future__ import annotations

from dataclasses import dataclass

from conf.rules import at_least


@dataclass(frozen=True)
class EvaluationSettings:
    """Stage 4: held-out prompts, drawn before and after, judged by SpatialScore and by the exact checker."""

    short_prompts: int = 120  # the scene grammar holds out about 150
    long_prompts: int = 160
    images_per_prompt: int = 2
    steps: int = 28  # denoise steps, as Flow-GRPO evaluates; training draws in policy.steps
    seed: int = 1000
    batch_prompts: int = 12
    use_ema: bool = True

    def __post_init__(self) -> None:
        for name in ("images_per_prompt", "steps", "batch_prompts"):
            at_least(f"evaluation.{name}", getattr(self, name), 1)
        for name in ("short_prompts", "long_prompts"):
            at_least(f"evaluation.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class SampleSettings:
    """`policy sample`: one text, drawn by base and tuned policy."""

    text: str = ""  # on the command line, words in quotes are this
    images: int = 4
    seed: int = 0
    out: str = ""  # PNG file; empty: <run_dir>/samples/<text>.png

    def __post_init__(self) -> None:
        at_least("sample.images", self.images, 1)
