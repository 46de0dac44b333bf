"""`baselines`: the models that `reward evaluate` compares SpatialScore with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.rules import Section, at_least, check_url, one_of

KIND_OF_SCORER = {
    "PickScore": "pickscore",
    "HPSv2.1": "hpsv2",
    "HPSv3": "hpsv3",
    "ImageReward": "imagereward",
    "VQAScore": "vqascore",
    "UnifiedReward": "unifiedreward",
    "CLIP": "clip",
}
"""Baselines that are reward models -> the kind of the same reward in section rewards."""
SCORERS = tuple(KIND_OF_SCORER)

KIND_OF_RULES = {"Detector": "detector", "DepthRules": "depth_rules"}
"""Baselines by rules -> the kind of the same reward. They read the relations of the pairs."""

JUDGES = ("GPT-5", "Gemini-2.5-Pro", "Qwen2.5-VL-7B", "Qwen2.5-VL-32B", "Qwen2.5-VL-72B")
"""Baselines behind an endpoint."""
_PUBLISHED = (*SCORERS, *KIND_OF_RULES, *JUDGES)


@dataclass(frozen=True)
class BaselinesSettings(Section):
    """Baselines, each in a Ray runtime environment of its own."""

    section: ClassVar[str] = "baselines"

    names: tuple[str, ...] = ()
    """Baselines to run: PickScore, HPSv2.1, HPSv3, ImageReward, VQAScore, UnifiedReward, CLIP, Detector, DepthRules,
    GPT-5, Gemini-2.5-Pro, Qwen2.5-VL-7B, Qwen2.5-VL-32B, Qwen2.5-VL-72B, and your own rewards of kind python or http,
    by their names in section rewards."""

    models: dict[str, str] = field(default_factory=dict[str, str])
    """Baseline -> directory or hub id (for a judge: model name) to use instead of its default."""

    urls: dict[str, str] = field(default_factory=dict[str, str])
    """Judge -> OpenAI-compatible endpoint to use instead of its default."""

    revisions: dict[str, str] = field(default_factory=dict[str, str])
    """Baseline -> commit or branch of its weights on the hub, in place of the commit that we pin."""

    price_in: dict[str, float] = field(default_factory=dict[str, float])
    """Judge -> cost of a million input tokens. Judges that are left out count as free."""

    price_out: dict[str, float] = field(default_factory=dict[str, float])
    """Judge -> cost of a million output tokens. Judges that are left out count as free."""

    judge_form: Literal["pairwise", "pointwise"] = "pairwise"
    """Question for a judge: which image is right (asked in both orders), or a grade for each image."""

    judge_concurrency: int = field(default=8, metadata=at_least(1))
    """Questions in flight at once."""

    judge_retries: int = field(default=5, metadata=at_least(0))
    """Retries of a question, with the client's own backoff."""

    isolated: bool = True
    """Install a baseline's pinned packages with pip for its process alone. false: use the installed packages."""

    batch_images: int = field(default=16, metadata=at_least(1))
    """Images in one forward pass."""

    chunk_pairs: int = field(default=64, metadata=at_least(1))
    """Pairs whose answers are saved together. An interruption loses at most this many."""

    threads: int = field(default=1, metadata=at_least(1))
    """CPU threads of a baseline."""

    cpus: float = 1.0
    """Ray CPUs that a baseline reserves."""

    gpus: float = 0.0
    """Ray GPUs that a baseline reserves. Weights of over a billion parameters need one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("models", "urls"):
            for name in getattr(self, key):
                one_of(f"baselines.{key}: a name", name, _PUBLISHED)
        for name, url in self.urls.items():
            check_url(f"baselines.urls.{name}", url, "https://host/v1")
        for name in self.revisions:
            one_of("baselines.revisions: a name", name, SCORERS)
        for key in ("price_in", "price_out"):
            for name in getattr(self, key):
                one_of(f"baselines.{key}: a judge", name, JUDGES)

    def check_names(self, own: Sequence[str]) -> None:
        """Raises SettingsError for a name that is neither a published baseline nor in `own`, your own rewards."""
        for name in self.names:
            one_of("baselines.names: a name (your own: rewards.NAME.kind=python or http)", name, (*_PUBLISHED, *own))
