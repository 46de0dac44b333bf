"""How often SpatialScore and the baselines order held-out pairs correctly: intervals, significance, calibration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from actors.files import write_file
from actors.spatialscore import SpatialScorer
from actors.spatialscore.calibration import CALIBRATION_FILE, ScoreCalibration
from actors.spatialscore.card import CARD_FILE, with_accuracy
from conf.settings import Settings
from pipelines.common.intervals import PairedTest, mcnemar
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import ProgressLine
from pipelines.reward.accuracy import Evaluation, ModelReport, summarize
from pipelines.reward.baselines.failure import FailedBaseline, failed_baseline, traceback_of
from pipelines.reward.baselines.run import predict_by_baseline
from pipelines.reward.calibration import Calibration, calibrate, gaussian_logits, mean_logits
from pipelines.reward.data import Pair, require_held_out_pairs
from pipelines.reward.hard_negatives import measure_hard_negatives
from pipelines.reward.held_out_scores import PairScore, as_pair_scores, score_each, score_held_out
from pipelines.reward.locations import pair_source
from pipelines.reward.predictions import PairPredictions
from pipelines.reward.report import accuracy_rows, render_report
from pipelines.reward.uncertainty import SigmaReport, sigma_report

NAME = "SpatialScore"


@dataclass(frozen=True)
class Measurement:
    """One model on all held-out pairs."""

    report: ModelReport
    right: np.ndarray  # [N] bool: pairs in the right order
    calibrations: tuple[Calibration, ...] = ()
    uncertainty: SigmaReport | None = None


def evaluate_reward(settings: Settings, log: Callable[[str], None] = print) -> Evaluation:
    """Measures SpatialScore on the held-out pairs, and compares it with the baselines of `baselines.names`.

    Writes evaluation.json and report.html to <run_dir>/reward, and the accuracy and the calibration into the directory
    of the run's own SpatialScore. `log` takes lines of progress. Ray must be initialized.
    SpatialScore's own result is written before the baselines begin. A baseline that fails is named in the result with
    its reason, and the others go on. A pair that cannot be read is left out for every model. Raises UserError if there
    is no SpatialScore or no held-out pair, or if too many of them cannot be read.
    """
    require_held_out_pairs(pair_source(settings))
    with ProgressLine("reward", log) as progress:
        progress.phase("measuring SpatialScore on the held-out pairs")
        scored = score_held_out(settings)
        progress.phase("measuring SpatialScore on hard negatives")
        hard = measure_hard_negatives(settings)
    if scored.left_out:
        log(f"reward evaluate  {scored.left_out}")
    ours, pairs = measure_scores(scored.scores), scored.pairs
    evaluation = Evaluation(
        (ours.report,), (), ours.calibrations, scored.left_out, ours.uncertainty, hard_negatives=hard
    )
    _write(evaluation, settings)
    reports: list[ModelReport] = [ours.report]
    tests: list[PairedTest] = []
    failed: list[FailedBaseline] = []
    for name in settings.baselines.names:
        try:
            predictions = predict_by_baseline(name, settings, log).of(scored.keys)
        except Exception as error:  # the boundary to other models, their packages and their services
            failed.append(failed_baseline(name, error))
            log(f"reward evaluate  {failed[-1]}\n{traceback_of(error)}".rstrip())
            continue
        reports.append(summarize(name, predictions, pairs))
        tests.append(mcnemar(NAME, ours.right, name, predictions.right))
    evaluation = replace(evaluation, models=tuple(reports), tests=tuple(tests), failed=tuple(failed))
    _write(evaluation, settings)
    return evaluation


def measure(scorer: SpatialScorer, pairs: Sequence[Pair]) -> Measurement:
    """Measures SpatialScore on pairs in memory. Raises ValueError if there are none."""
    return measure_scores(score_each(scorer, pairs))


def measure_scores(scores: Sequence[PairScore]) -> Measurement:
    """Measures SpatialScore by its scores of pairs. Raises ValueError if there are none."""
    pairs = [score.pair for score in scores]
    arrays = as_pair_scores(scores)
    predictions = PairPredictions(arrays.margin, truncated=np.zeros(len(pairs), bool))
    perturbed = [score.perturbed_margin for score in scores if score.perturbed_margin is not None]
    report = summarize(NAME, predictions, pairs, np.array(perturbed))
    w, l, half = arrays.winner, arrays.loser, fit_half(pairs)  # noqa: E741
    uncertainty = sigma_report(predictions.right, arrays.margin, w.sigma, l.sigma)
    if half.all() or not half.any():
        return Measurement(report, predictions.right, (), uncertainty)
    calibrations = (
        calibrate("mu", mean_logits(w.mu, l.mu), half),
        calibrate("mu and sigma", gaussian_logits(w.mu, w.sigma, l.mu, l.sigma), half),
    )
    return Measurement(report, predictions.right, calibrations, uncertainty)


def fit_half(pairs: Sequence[Pair]) -> np.ndarray:
    """The pairs on which the temperature is fitted  # [N] bool. All pairs of a prompt group are in the same half."""
    digests = [hashlib.sha256(f"calibration|{pair.group_id}".encode()).digest() for pair in pairs]
    return np.array([digest[0] < 128 for digest in digests])


def _write(evaluation: Evaluation, settings: Settings) -> None:
    paths = run_paths(settings)
    write_file(str(paths.reward_evaluation), json.dumps(asdict(evaluation), indent=2).encode())
    write_file(str(paths.reward_report), render_report(evaluation).encode())
    card = paths.reward_model / CARD_FILE
    if not settings.serving.model and card.is_file():  # a model of another run is left unchanged
        rows = accuracy_rows(evaluation.models[0])
        write_file(str(card), with_accuracy(card.read_text(), rows).encode())
        for found in evaluation.calibrations[:1]:  # that of mu
            calibration = ScoreCalibration(found.temperature, found.error_scaled)
            write_file(str(paths.reward_model / CALIBRATION_FILE), json.dumps(asdict(calibration)).encode())
