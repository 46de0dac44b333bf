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
    file: str = "config.json"  # a file that the weights on the hub have: the one that is loaded, if it is one
    beside: tuple[str, ...] = ()  # hub ids of its configuration, tokenizer or tower, if they are elsewhere


@dataclass(frozen=True)
class ScorerContext:
    """The input of an opener."""

    model: str  # directory or hub id
    device: str
    batch_images: int  # images of one forward pass
    revision: str = ""  # of the weights on the hub: a commit or a branch; "": see `commit_of`

    @property
    def commit(self) -> str:
        """The commit or branch at which `model` is used. It means nothing for a local folder."""
        return self.revision or commit_of(self.model)


def download(context: ScorerContext, file: str) -> str:
    """The local path of a file of the weights on the hub."""
    from huggingface_hub import hf_hub_download

    return hf_hub_download(context.model, file, revision=context.commit)


PINNED = {
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-large-patch14-336": "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    "yuvalkirstain/PickScore_v1": "a4e4367c6dfa7288a00c550414478f865b875800",
    "xswu/HPSv2": "697403c78157020a1ae59d23f111aa58ced35b0a",
    "MizzenAI/HPSv3": "4f81e3e09edd82fe3c5f636444c721b592a735ca",
    "Qwen/Qwen2-VL-7B-Instruct": "eed13092ef92e448dd6875b2a00151bd3f7db0ac",
    "THUDM/ImageReward": "5736be03b2652728fb87788c9797b0570450ab72",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "google/flan-t5-xxl": "ae7c9136adc7555eeccc78cdd960dfd60fb346ce",
}
"""Repository of the hub -> the commit at which it is used.

Other public projects pin the same commits, several projects each of them. We never downloaded them. No published commit
was found for CLIP-FlanT5 and UnifiedReward.
"""


def commit_of(model: str) -> str:
    """The pinned commit of a repository of the hub; its newest one, "main", if none is pinned."""
    return PINNED.get(model, "main")


_CLIP_H = ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K",)
_PICKSCORE, _HPSV2 = "yuvalkirstain/PickScore_v1", "xswu/HPSv2"
_VQA_PARTS = ("google/flan-t5-xxl", "openai/clip-vit-large-patch14-336")

SCORERS: dict[str, ScorerEntry] = {
    "clip": ScorerEntry("clip:open_clip_score", "openai/clip-vit-base-patch32", (_TRANSFORMERS,), 0.15),
    "pickscore": ScorerEntry("clip:open_pickscore", _PICKSCORE, (_TRANSFORMERS,), 0.99, beside=_CLIP_H),
    "hpsv2": ScorerEntry("clip:open_hpsv2", _HPSV2, (_TRANSFORMERS,), 0.99, "HPS_v2.1_compressed.pt", _CLIP_H),
    "hpsv3": ScorerEntry(
        "hpsv3:open_hpsv3",
        "MizzenAI/HPSv3",
        (_TRANSFORMERS, "hpsv3==1.0.0"),
        8.3,
        "HPSv3.safetensors",
        ("Qwen/Qwen2-VL-7B-Instruct",),
    ),
    "imagereward": ScorerEntry(
        "image_reward:open_image_reward",
        "THUDM/ImageReward",
        (_TRANSFORMERS,),
        0.45,
        "ImageReward.pt",
        ("google-bert/bert-base-uncased",),
    ),
    "vqascore": ScorerEntry(
        "vqascore:open_vqascore", "zhiqiulin/clip-flant5-xxl", (_TRANSFORMERS,), 11.5, beside=_VQA_PARTS
    ),
    "unifiedreward": ScorerEntry(
        "unified_reward:open_unified_reward", "CodeGoat24/UnifiedReward-qwen-7b", (_TRANSFORMERS,), 8.3
    ),
}
"""Kind -> reward model. `conf.rewards.SCORER_KINDS` has the same names."""

GROUNDING_DINO, DEPTH_ANYTHING = "IDEA-Research/grounding-dino-base", "depth-anything/Depth-Anything-V2-Small-hf"
"""The models of `depth_rules`, unless its settings name others."""


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
