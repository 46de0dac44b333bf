"""The known baselines: the function that opens each, its weights, and the packages that its process needs.

Every adapter uses classes of transformers. The version is pinned here, so that a baseline does not change when the
project upgrades, and does not conflict with the packages of another baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import hf_hub_download

_TRANSFORMERS = "transformers==5.23.0"
_OPENAI_API = "https://api.openai.com/v1"
_GEMINI_API = "https://generativelanguage.googleapis.com/v1beta/openai/"
_LOCAL_API = "http://127.0.0.1:8000/v1"  # the default of `vllm serve`


@dataclass(frozen=True)
class ScorerEntry:
    """A baseline whose weights are loaded here."""

    opener: str  # "module:function" of pipelines.reward.baselines: ScorerContext -> PairJudge
    model: str  # hub id
    requirements: tuple[str, ...]  # pip requirements of its runtime environment
    billions: float  # parameters, with all towers


@dataclass(frozen=True)
class JudgeEntry:
    """A vision-language model behind an OpenAI-compatible endpoint."""

    url: str
    model: str
    key_variable: str  # name of the driver's environment variable that holds the key


@dataclass(frozen=True)
class ScorerContext:
    """The input of a baseline's opener."""

    model: str  # directory or hub id
    device: str
    batch_images: int  # images of one forward pass
    revision: str = "main"  # of the weights on the hub: a commit or a branch


def download(context: ScorerContext, file: str) -> str:
    """The local path of a file of the weights on the hub."""
    return hf_hub_download(context.model, file, revision=context.revision)


SCORERS: dict[str, ScorerEntry] = {
    "PickScore": ScorerEntry("clip:open_pickscore", "yuvalkirstain/PickScore_v1", (_TRANSFORMERS,), 0.99),
    "HPSv2.1": ScorerEntry("clip:open_hpsv2", "xswu/HPSv2", (_TRANSFORMERS,), 0.99),
    "HPSv3": ScorerEntry("hpsv3:open_hpsv3", "MizzenAI/HPSv3", (_TRANSFORMERS, "hpsv3==1.0.0"), 8.3),
    "ImageReward": ScorerEntry("image_reward:open_image_reward", "THUDM/ImageReward", (_TRANSFORMERS,), 0.45),
    "VQAScore": ScorerEntry("vqascore:open_vqascore", "zhiqiulin/clip-flant5-xxl", (_TRANSFORMERS,), 11.5),
    "UnifiedReward": ScorerEntry(
        "unified_reward:open_unified_reward", "CodeGoat24/UnifiedReward-qwen-7b", (_TRANSFORMERS,), 8.3
    ),
}

JUDGES: dict[str, JudgeEntry] = {
    "GPT-5": JudgeEntry(_OPENAI_API, "gpt-5", "OPENAI_API_KEY"),
    "Gemini-2.5-Pro": JudgeEntry(_GEMINI_API, "gemini-2.5-pro", "GEMINI_API_KEY"),
    "Qwen2.5-VL-7B": JudgeEntry(_LOCAL_API, "Qwen/Qwen2.5-VL-7B-Instruct", "VLLM_API_KEY"),
    "Qwen2.5-VL-32B": JudgeEntry(_LOCAL_API, "Qwen/Qwen2.5-VL-32B-Instruct", "VLLM_API_KEY"),
    "Qwen2.5-VL-72B": JudgeEntry(_LOCAL_API, "Qwen/Qwen2.5-VL-72B-Instruct", "VLLM_API_KEY"),
}
