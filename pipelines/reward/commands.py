"""`spatialt2i reward …`."""

from __future__ import annotations

from actors.services.budget import BudgetReached
from conf import Settings
from pipelines.common.ray_session import ray_session
from pipelines.reward.evaluate import evaluate_reward
from pipelines.reward.merge import write_merged
from pipelines.reward.report import table as accuracy_table
from pipelines.reward.sanity_checks import run_sanity_checks
from pipelines.reward.sanity_checks import table as checks_table
from pipelines.reward.score import WrongPrompts, score_images
from pipelines.reward.serve import serve_reward
from pipelines.reward.train import train_reward
from pipelines.reward.triage import triage as triage_pairs


def train(settings: Settings) -> None:
    """Fits SpatialScore, measures it on held-out pairs and examines it, as only an examined one steers a policy."""
    with ray_session(settings):
        print(train_reward(settings))
        _measure(settings)
        doctor(settings)


def evaluate(settings: Settings) -> None:
    """Measures the run's SpatialScore on held-out pairs."""
    with ray_session(settings):
        _measure(settings)


def doctor(settings: Settings) -> None:
    """Examines the run's SpatialScore. Raises SystemExit(1) where a check fails."""
    with ray_session(settings):
        checks = run_sanity_checks(settings)
    print(checks_table(checks))
    if not all(check.passed for check in checks):
        raise SystemExit(1)


def score(settings: Settings) -> None:
    """Scores a folder of images under their prompts. Raises SystemExit, with the mend, where the input is wrong."""
    with ray_session(settings):
        try:
            print(score_images(settings))
        except WrongPrompts as error:
            raise SystemExit(f"reward score  {error}") from None


def merge(settings: Settings) -> None:
    """Writes the run's SpatialScore with its LoRA merged to <run_dir>/reward/merged."""
    print(f"SpatialScore with its LoRA merged: {write_merged(settings)}")


def serve(settings: Settings) -> None:
    """Serves the run's SpatialScore over HTTP until interrupted."""
    with ray_session(settings):
        serve_reward(settings)


def triage(settings: Settings) -> None:
    """Has a model say which pairs it doubts: `review` then shows people those first."""
    doubts = triage_pairs(settings)
    doubted = sum(doubts.about(pair_id) for pair_id in doubts.margins)
    print(
        f"{doubts.by} doubts {doubted} of {len(doubts.margins)} pairs: the review shows those first, and decides itself"
    )


def _measure(settings: Settings) -> None:
    """Raises SystemExit, with the mend, where a rival's calls cost more than the budget."""
    try:
        print(accuracy_table(evaluate_reward(settings)))
    except BudgetReached as early:
        raise SystemExit(f"reward evaluate  {early}") from None
