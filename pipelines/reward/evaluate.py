"""How often SpatialScore and the baselines order held-out pairs correctly: intervals, significance, calibration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import ray

from actors.files import write_file
from actors.spatialscore import SpatialScorer
from actors.spatialscore.card import CARD_FILE, with_accuracy
from actors.worker_setup import actor_options
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.intervals import PairedTest, mcnemar
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import ProgressLine
from pipelines.reward.accuracy import Evaluation, ModelReport, summarize
from pipelines.reward.baselines.run import predict_by_baseline
from pipelines.reward.calibration import Calibration, calibrate, gaussian_logits, mean_logits
from pipelines.reward.data import Pair, read_pairs, require_held_out_pairs
from pipelines.reward.locations import HELD_OUT, PairSource, pair_source
from pipelines.reward.pair_scores import score_pairs, score_under_perturbed_prompts
from pipelines.reward.predictions import PairPredictions
from pipelines.reward.report import accuracy_rows, render_report
from pipelines.reward.served_model import open_scorer, served_model

NAME = "SpatialScore"


@dataclass(frozen=True)
class Measurement:
    """One model on all held-out pairs."""

    report: ModelReport
    right: np.ndarray  # [N] bool: pairs in the right order
    calibrations: tuple[Calibration, ...] = ()
    left_out: str = ""  # pairs that cannot be read; the same ones for every model


def evaluate_reward(settings: Settings, log: Callable[[str], None] = print) -> Evaluation:
    """Measures SpatialScore on the held-out pairs, and compares it with the baselines of `baselines.names`.

    Writes evaluation.json and report.html to <run_dir>/reward, and the accuracy into the model card of the run's own
    SpatialScore. `log` takes lines of progress. Ray must be initialized.
    A pair that cannot be read is left out for every model. Raises UserError if there is no SpatialScore or no held-out
    pair, or if too many of them cannot be read, and the errors of `predict_by_baseline`.
    """
    pairs = pair_source(settings)
    require_held_out_pairs(pairs)
    with ProgressLine("reward", log) as progress:
        progress.phase("measuring SpatialScore on the held-out pairs")
        ours = _measure_remotely(served_model(settings), pairs, settings.serving)
    if ours.left_out:
        log(f"reward evaluate  {ours.left_out}")
    reports: list[ModelReport] = [ours.report]
    tests: list[PairedTest] = []
    for name in settings.baselines.names:
        predictions = predict_by_baseline(name, settings, log)
        baseline = _summarize_remotely(name, predictions, pairs, settings.serving)
        reports.append(baseline.report)
        tests.append(mcnemar(NAME, ours.right, name, baseline.right))
    evaluation = Evaluation(tuple(reports), tuple(tests), ours.calibrations, ours.left_out)
    _write(evaluation, settings)
    return evaluation


def measure(scorer: SpatialScorer, pairs: Sequence[Pair]) -> Measurement:
    """Measures SpatialScore on pairs. Raises ValueError if there are none."""
    scores = score_pairs(scorer, pairs)
    predictions = PairPredictions(scores.margin, truncated=np.zeros(len(pairs), bool))
    perturbed = score_under_perturbed_prompts(scorer, [pair for pair in pairs if pair.perturbed_prompt])
    report = summarize(NAME, predictions, pairs, perturbed.margin)
    w, l, half = scores.winner, scores.loser, fit_half(pairs)  # noqa: E741
    if half.all() or not half.any():
        return Measurement(report, predictions.right)
    calibrations = (
        calibrate("mu", mean_logits(w.mu, l.mu), half),
        calibrate("mu and sigma", gaussian_logits(w.mu, w.sigma, l.mu, l.sigma), half),
    )
    return Measurement(report, predictions.right, calibrations)


def fit_half(pairs: Sequence[Pair]) -> np.ndarray:
    """The pairs on which the temperature is fitted  # [N] bool. All pairs of a prompt group are in the same half."""
    digests = [hashlib.sha256(f"calibration|{pair.group_id}".encode()).digest() for pair in pairs]
    return np.array([digest[0] < 128 for digest in digests])


def _measure_remotely(model: str, source: PairSource, serving: ServingSettings) -> Measurement:
    """Measures the SpatialScore in the directory `model`, in a Ray task with the resources of a replica."""

    def run() -> Measurement:
        decoded = read_pairs(source, HELD_OUT)
        return replace(measure(open_scorer(model, serving), decoded.pairs), left_out=decoded.left_out)

    return ray.get(ray.remote(run).options(**actor_options(serving.threads, serving.cpus, serving.gpus)).remote())


def _summarize_remotely(
    name: str, predictions: PairPredictions, source: PairSource, serving: ServingSettings
) -> Measurement:
    """Summarizes a baseline's predictions in a Ray task: the driver does not hold the pairs' images."""

    def run() -> Measurement:
        return Measurement(summarize(name, predictions, read_pairs(source, HELD_OUT).pairs), predictions.right)

    return ray.get(ray.remote(run).options(num_cpus=serving.cpus).remote())


def _write(evaluation: Evaluation, settings: Settings) -> None:
    paths = run_paths(settings)
    write_file(str(paths.reward_evaluation), json.dumps(asdict(evaluation), indent=2).encode())
    write_file(str(paths.reward_report), render_report(evaluation).encode())
    card = paths.reward_model / CARD_FILE
    if not settings.serving.model and card.is_file():  # a model of another run is left unchanged
        rows = accuracy_rows(evaluation.models[0])
        write_file(str(card), with_accuracy(card.read_text(), rows).encode())
