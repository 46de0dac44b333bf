"""How often SpatialScore orders held-out pairs rightly, by kind of pair."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import ray

from actors.process import actor_options, set_up_process
from actors.spatialscore import SpatialScorer
from actors.storage import write_file
from conf.reward import RewardPoolSettings
from conf.settings import Settings
from pipelines.reward.data import Pair, read_pairs
from pipelines.reward.locations import model_folder, preferences_folder, reward_folder

Z95 = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """Share of pairs in the right order, with its Wilson 95 % interval."""

    pairs: int
    right: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class RewardReport:
    """Held-out accuracy; a row is None where the split holds no such pair."""

    one_change: Accuracy | None  # perturbed pairs with 1 changed relation
    more_changes: Accuracy | None  # with 2 or 3
    exploit: Accuracy | None  # losers with a missing, doubled or recoloured object
    generated: Accuracy | None  # drawn by the base policy, ordered by the checker
    perturbed_prompt: Accuracy | None  # image_l against image_w under the perturbed prompt
    overall: Accuracy | None  # all pairs under their prompt
    mean_margin: float  # of mu_w - mu_l


def evaluate_reward(settings: Settings) -> RewardReport:
    """Scores the run's held-out pairs with its SpatialScore and writes <run_dir>/reward/report.json.

    Ray must be initialised. Raises ValueError where there are no held-out pairs.
    """
    pool = settings.pool
    task = ray.remote(_evaluate).options(**actor_options(pool.threads, pool.cpus, pool.gpus))
    report = ray.get(task.remote(str(model_folder(settings)), preferences_folder(settings), pool))
    write_file(str(reward_folder(settings) / "report.json"), json.dumps(asdict(report), indent=2).encode())
    return report


def measure(scorer: SpatialScorer, pairs: Sequence[Pair]) -> RewardReport:
    """Accuracy of a scorer on pairs. A tie counts as wrong. Raises ValueError where `pairs` is empty."""
    if not pairs:
        raise ValueError("no held-out pairs to measure on: raise preferences.test_fraction or preferences.pairs")
    prompts = [pair.prompt for pair in pairs]
    margin = margins(scorer, [pair.image_w for pair in pairs], [pair.image_l for pair in pairs], prompts)
    turned = [pair for pair in pairs if pair.perturbed_prompt]
    turned_margin = margins(
        scorer, [p.image_l for p in turned], [p.image_w for p in turned], [p.perturbed_prompt or "" for p in turned]
    )

    def among(chosen: Sequence[bool]) -> Accuracy | None:
        return wilson((margin > 0)[np.array(chosen)])

    return RewardReport(
        one_change=among([pair.n_perturb == 1 for pair in pairs]),
        more_changes=among([pair.n_perturb > 1 for pair in pairs]),
        exploit=among([pair.kind == "exploit" for pair in pairs]),
        generated=among([pair.kind == "generated" for pair in pairs]),
        perturbed_prompt=wilson(turned_margin > 0),
        overall=wilson(margin > 0),
        mean_margin=float(margin.mean()),
    )


def margins(
    scorer: SpatialScorer, better: Sequence[np.ndarray], worse: Sequence[np.ndarray], prompts: Sequence[str]
) -> np.ndarray:
    """mu of each better image less mu of the worse one under the same prompt  # [N]."""
    if not prompts:
        return np.empty(0, np.float32)
    scores = scorer.score(images=[*better, *worse], prompts=[*prompts, *prompts])
    return scores.mu[: len(prompts)] - scores.mu[len(prompts) :]


def wilson(right: np.ndarray) -> Accuracy | None:
    """Wilson's 95 % score interval of a share; None where there is nothing to count."""
    count, good = len(right), int(right.sum())
    if not count:
        return None
    share, square = good / count, Z95**2 / count
    centre = (share + square / 2) / (1 + square)
    spread = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return Accuracy(count, good, share, centre - spread, centre + spread)


def table(report: RewardReport) -> str:
    """The report as aligned text."""
    rows = {
        "1 changed relation": report.one_change,
        "2-3 changed relations": report.more_changes,
        "missing, doubled, recoloured": report.exploit,
        "drawn by the base policy": report.generated,
        "other image, perturbed prompt": report.perturbed_prompt,
        "all pairs": report.overall,
    }
    lines = [
        f"{name:<30}  {row.accuracy:6.1%}  [{row.low:.1%}, {row.high:.1%}]  {row.right}/{row.pairs}"
        for name, row in rows.items()
        if row
    ]
    return "\n".join(["held-out pairs in the right order (95 % interval)", *lines])


def _evaluate(model: str, folder: str, pool: RewardPoolSettings) -> RewardReport:
    return measure(open_scorer(model, pool), read_pairs(folder, "test"))


def open_scorer(model: str, pool: RewardPoolSettings) -> SpatialScorer:
    """The run's SpatialScore in this process, on the device that the pool's settings reserve."""
    device = set_up_process(pool.threads, pool.gpus)
    return SpatialScorer.from_pretrained(
        model, device=str(device), threads=pool.threads, batch_images=pool.batch_images
    )
