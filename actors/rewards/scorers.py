"""The published reward models: the function that opens each, its weights, and the packages that its process needs.

Every one uses classes of transformers. The version is pinned here, so that a score does not change when the project
upgrades, and does not conflict with the packages of another one. Imports no torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from actors.rewards.base import Reward
from actors.rewards.errors import RewardError

MAX_BILLIONS_ON_CPU = 1.0
"""Parameters, in billions, of a reward model that may run without a GPU."""
_TRANSFORMERS = "transformers==5.23.0"

Packages = Literal["installed", "pip", "uv"]


@dataclass(frozen=True)
class ScorerEntry:
    """A reward model whose weights are loaded in the process that scores."""

    opener: str  # "module:function" of actors.rewards: ScorerContext -> Reward
    model: str  # hub id
    requirements: tuple[str, ...]  # pip requirements of its runtime environment
    billions: float  # parameters, with all towers


@dataclass(frozen=True)
class ScorerContext:
    """The input of an opener."""

    model: str  # directory or hub id
    device: str
    batch_images: int  # images of one forward pass
    revision: str = "main"  # of the weights on the hub: a commit or a branch


def download(context: ScorerContext, file: str) -> str:
    """The local path of a file of the weights on the hub."""
    from huggingface_hub import hf_hub_download

    return hf_hub_download(context.model, file, revision=context.revision)


SCORERS: dict[str, ScorerEntry] = {
    "clip": ScorerEntry("clip:open_clip_score", "openai/clip-vit-large-patch14", (_TRANSFORMERS,), 0.43),
    "pickscore": ScorerEntry("clip:open_pickscore", "yuvalkirstain/PickScore_v1", (_TRANSFORMERS,), 0.99),
    "hpsv2": ScorerEntry("clip:open_hpsv2", "xswu/HPSv2", (_TRANSFORMERS,), 0.99),
    "hpsv3": ScorerEntry("hpsv3:open_hpsv3", "MizzenAI/HPSv3", (_TRANSFORMERS, "hpsv3==1.0.0"), 8.3),
    "imagereward": ScorerEntry("image_reward:open_image_reward", "THUDM/ImageReward", (_TRANSFORMERS,), 0.45),
    "vqascore": ScorerEntry("vqascore:open_vqascore", "zhiqiulin/clip-flant5-xxl", (_TRANSFORMERS,), 11.5),
    "unifiedreward": ScorerEntry(
        "unified_reward:open_unified_reward", "CodeGoat24/UnifiedReward-qwen-7b", (_TRANSFORMERS,), 8.3
    ),
}
"""Kind -> reward model. `conf.rewards.SCORER_KINDS` has the same names."""


def open_scorer(kind: str, context: ScorerContext) -> Reward:
    """Opens a reward model in this process."""
    module, _, function = SCORERS[kind].opener.partition(":")
    opener = getattr(importlib.import_module(f"actors.rewards.{module}"), function)
    return cast(Reward, opener(context))


def runtime_env_of(kind: str, packages: Packages, given: Mapping[str, Any]) -> dict[str, Any]:
    """The Ray runtime environment of a reward model: `given`, with its requirements if it names no packages itself."""
    if packages == "installed" or {"pip", "uv", "conda"} & given.keys():
        return dict(given)
    options = "pip_install_options" if packages == "pip" else "uv_pip_install_options"
    return {**given, packages: {"packages": list(SCORERS[kind].requirements), options: ["--no-deps"]}}


def require_installed(kind: str, fix: str) -> None:
    """Raises RewardError, which ends in `fix`, if a package of a reward model is not installed here."""
    for requirement in SCORERS[kind].requirements:
        package = requirement.partition("==")[0]
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise RewardError(f"{kind} needs the package {package}, which is not installed: {fix}") from None
