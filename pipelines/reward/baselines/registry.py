"""The baselines by the names that tables show: reward models of `actors.rewards`, and judges behind endpoints."""

from __future__ import annotations

from dataclasses import dataclass

from actors.rewards.batched import BatchedReward
from actors.rewards.scorers import SCORERS as ENTRIES
from actors.rewards.scorers import ScorerContext, ScorerEntry, open_scorer
from conf.baselines import KIND_OF_SCORER, BaselinesSettings
from pipelines.reward.predictions import PairJudge, ScoringJudge

_OPENAI_API = "https://api.openai.com/v1"
_GEMINI_API = "https://generativelanguage.googleapis.com/v1beta/openai/"
_LOCAL_API = "http://127.0.0.1:8000/v1"  # the default of `vllm serve`


@dataclass(frozen=True)
class JudgeEntry:
    """A vision-language model behind an OpenAI-compatible endpoint."""

    url: str
    model: str
    key_variable: str  # name of the driver's environment variable that holds the key


SCORERS: dict[str, ScorerEntry] = {name: ENTRIES[kind] for name, kind in KIND_OF_SCORER.items()}
"""Name of a baseline -> the reward model, which is the training reward of that kind, too."""

JUDGES: dict[str, JudgeEntry] = {
    "GPT-5": JudgeEntry(_OPENAI_API, "gpt-5", "OPENAI_API_KEY"),
    "Gemini-2.5-Pro": JudgeEntry(_GEMINI_API, "gemini-2.5-pro", "GEMINI_API_KEY"),
    "Qwen2.5-VL-7B": JudgeEntry(_LOCAL_API, "Qwen/Qwen2.5-VL-7B-Instruct", "VLLM_API_KEY"),
    "Qwen2.5-VL-32B": JudgeEntry(_LOCAL_API, "Qwen/Qwen2.5-VL-32B-Instruct", "VLLM_API_KEY"),
    "Qwen2.5-VL-72B": JudgeEntry(_LOCAL_API, "Qwen/Qwen2.5-VL-72B-Instruct", "VLLM_API_KEY"),
}


def open_scorer_baseline(name: str, cfg: BaselinesSettings, device: str) -> PairJudge:
    """Opens a reward model in this process, to order the images of pairs."""
    model, revision = cfg.models.get(name, SCORERS[name].model), cfg.revisions.get(name, "")
    even = 2 * max(1, cfg.batch_images // 2)
    reward = open_scorer(KIND_OF_SCORER[name], ScorerContext(model, device, even, revision))
    if isinstance(reward, BatchedReward):
        return ScoringJudge(reward)
    from actors.rewards.unified_reward import UnifiedReward
    from pipelines.reward.baselines.comparing import ComparingJudge

    assert isinstance(reward, UnifiedReward)
    return ComparingJudge(reward)
