"""The actions of `spatialt2i reward`, and `spatialt2i preferences triage`.

What an action reads is checked before Ray starts, so that a mistake is answered at once.
"""

from __future__ import annotations

from pathlib import Path

from actors.folders import require_replaceable
from conf import Settings
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import clock
from pipelines.common.ray_session import ray_session
from pipelines.common.run_folder import driving, writing
from pipelines.common.terminal import coloured, errors, print_warning
from pipelines.common.vocabulary import vocabulary_note, vocabulary_warning
from pipelines.reward.baselines.failure import ask_again
from pipelines.reward.data import require_held_out_pairs, require_pairs
from pipelines.reward.evaluate import evaluate_reward
from pipelines.reward.locations import pair_source
from pipelines.reward.merge import write_merged
from pipelines.reward.report import table as accuracy_table
from pipelines.reward.sanity_checks import run_sanity_checks
from pipelines.reward.sanity_checks import table as checks_table
from pipelines.reward.score import score_images
from pipelines.reward.score_input import image_folder, read_requests
from pipelines.reward.serve import serve_reward
from pipelines.reward.served_model import served_model
from pipelines.reward.train import train_reward
from pipelines.reward.triage import triage as triage_pairs


def train(settings: Settings) -> None:
    """Trains SpatialScore, measures it on held-out pairs, and runs its sanity checks.

    Raises SystemExit if a check or a baseline fails, after all of this.
    """
    require_pairs(pair_source(settings))
    require_replaceable(run_paths(settings).reward_model)
    with driving(settings, "reward"), ray_session(settings):
        result = train_reward(settings)
        print(
            f"{result.steps} optimizer steps on {result.pairs} pairs in {clock(result.seconds)}: SpatialScore is in "
            f"{result.model}"
        )
        missing = _evaluate(settings)
        check(settings)
    if missing:
        raise SystemExit(f"reward train  {missing}")


def evaluate(settings: Settings) -> None:
    """Measures the run's SpatialScore on held-out pairs. Raises SystemExit with a message if a baseline fails."""
    _require_model_and_pairs(settings)
    with writing(settings), ray_session(settings):
        missing = _evaluate(settings)
    if missing:
        raise SystemExit(f"reward evaluate  {missing}")


def check(settings: Settings) -> None:
    """Runs the sanity checks of the run's SpatialScore. Raises SystemExit(1) if one fails."""
    _require_model_and_pairs(settings)
    with writing(settings), ray_session(settings):
        checks = run_sanity_checks(settings)
    print(coloured(f"{checks_table(checks)}\nwrote {run_paths(settings).sanity_checks}"))
    if any(check.blocks for check in checks):
        raise SystemExit(1)


def score(settings: Settings) -> None:
    """Scores a folder of images under their prompts."""
    model, requests = served_model(settings), read_requests(settings.score.prompts)
    image_folder(settings.score.images)
    if warning := vocabulary_warning([request.prompt for request in requests], Path(model), "this SpatialScore"):
        print_warning(warning)
    with ray_session(settings):
        print(score_images(settings))


def merge(settings: Settings) -> None:
    """Writes the run's SpatialScore with its LoRA merged into the backbone."""
    require_replaceable(run_paths(settings).reward_merged)
    with writing(settings):
        print(f"SpatialScore with its LoRA merged: {write_merged(settings)}")


def serve(settings: Settings) -> None:
    """Serves the run's SpatialScore over HTTP until it is interrupted."""
    if note := vocabulary_note(Path(served_model(settings)), "this SpatialScore"):
        print(note, file=errors())
    with ray_session(settings):
        serve_reward(settings)


def triage(settings: Settings) -> None:
    """Lets a model flag doubtful pairs. `preferences review` then shows them first."""
    with writing(settings):
        scores = triage_pairs(settings)
    flagged = sum(scores.is_flagged(pair_id) for pair_id in scores.margins)
    print(
        f"{scores.model} flags {flagged} of {len(scores.margins)} pairs as doubtful. The review shows them first; "
        f"annotators decide. Scores: {run_paths(settings).triage_scores}"
    )


def _require_model_and_pairs(settings: Settings) -> None:
    """Raises UserError if the run has no SpatialScore or no held-out pair."""
    served_model(settings)
    require_held_out_pairs(pair_source(settings))


def _evaluate(settings: Settings) -> str:
    """Prints the table, and returns which baselines failed; an empty text if none did."""
    evaluation = evaluate_reward(settings)
    print(accuracy_table(evaluation))
    print(f"Open {run_paths(settings).reward_report} in a browser.")
    return ask_again(evaluation.failed)
