"""`reward evaluate`: the models that SpatialScore is measured against."""

from __future__ import annotations

from dataclasses import dataclass, field

from conf.rules import at_least, one_of

SCORERS = ("PickScore", "HPSv2.1", "HPSv3", "ImageReward", "VQAScore", "UnifiedReward")
JUDGES = ("GPT-5", "Gemini-2.5-Pro", "Qwen2.5-VL-7B", "Qwen2.5-VL-32B", "Qwen2.5-VL-72B")


@dataclass(frozen=True)
class RivalsSettings:
    """Rivals of SpatialScore, each in a Ray runtime environment of its own."""

    names: tuple[str, ...] = ()  # of SCORERS and JUDGES
    models: dict[str, str] = field(default_factory=dict)  # name -> directory or hub id (judges: model) to use instead
    urls: dict[str, str] = field(default_factory=dict)  # judge's name -> OpenAI-compatible endpoint to ask instead
    price_in: dict[str, float] = field(default_factory=dict)  # judge's name -> money for a million tokens read
    price_out: dict[str, float] = field(default_factory=dict)  # and written; what is left out counts as free
    judge_form: str = "pairwise"  # pairwise: which image is right, both orders asked | pointwise: a grade an image
    judge_concurrency: int = 8  # questions under way at once
    judge_retries: int = 5  # of a question, with the client's own backoff
    isolated: bool = True  # install a rival's pins with pip for its process alone; false: use what is installed
    batch_images: int = 16  # images in one forward
    chunk_pairs: int = 64  # pairs whose answers are saved together: what an interruption can lose
    threads: int = 1
    cpus: float = 1.0  # Ray CPUs a rival reserves
    gpus: float = 0.0  # Ray GPUs a rival reserves

    def __post_init__(self) -> None:
        for name in (*self.names, *self.models, *self.urls):
            one_of("rivals: a name", name, (*SCORERS, *JUDGES))
        for name in (*self.price_in, *self.price_out):
            one_of("rivals.price_in and rivals.price_out: a judge", name, JUDGES)
        one_of("rivals.judge_form", self.judge_form, ("pairwise", "pointwise"))
        for name in ("judge_concurrency", "batch_images", "chunk_pairs", "threads"):
            at_least(f"rivals.{name}", getattr(self, name), 1)
        at_least("rivals.judge_retries", self.judge_retries, 0)
