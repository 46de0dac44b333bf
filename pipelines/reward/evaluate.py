"""How often SpatialScore, and its rivals, order held-out pairs rightly: intervals, significance, calibration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import ray

from actors.files import write_file
from actors.spatialscore import SpatialScorer
from actors.spatialscore.card import CARD_FILE, with_accuracy
from actors.types import Scores
from actors.worker_setup import actor_options, init_worker
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.intervals import mcnemar
from pipelines.common.paths import model_folder, preferences_folder, reward_folder, score_folder
from pipelines.reward.accuracy import Evaluation, ModelReport, summarise
from pipelines.reward.baselines.run import predict_by_baseline
from pipelines.reward.calibration import Calibration, calibrate, gaussian_logits, mean_logits
from pipelines.reward.data import Pair, read_pairs
from pipelines.reward.predictions import PairPredictions
from pipelines.reward.report import accuracy_rows, render_report

NAME = "SpatialScore"


def evaluate_reward(settings: Settings, log: Callable[[str], None] = print) -> Evaluation:
    """Judges the held-out pairs by SpatialScore and the rivals of `baselines.names`.

    Writes evaluation.json and report.html to <run_dir>/reward, and the accuracies into the model card of the run's own
    SpatialScore. Ray must be initialised. `log` gets lines of progress.
    Raises ValueError where there are no held-out pairs, and what `predict_by_baseline` raises.
    """
    pool, folder = settings.serving, preferences_folder(settings)
    task = ray.remote(_measure).options(**actor_options(pool.threads, pool.cpus, pool.gpus))
    report, right, calibrations = ray.get(task.remote(str(score_folder(settings)), folder, pool))
    models, tests = [report], []
    for name in settings.baselines.names:
        judged = predict_by_baseline(name, settings, log)
        rival, rival_right = ray.get(ray.remote(_report).options(num_cpus=pool.cpus).remote(name, judged, folder))
        models.append(rival)
        tests.append(mcnemar(NAME, right, name, rival_right))
    evaluation = Evaluation(tuple(models), tuple(tests), calibrations)
    out = reward_folder(settings)
    write_file(str(out / "evaluation.json"), json.dumps(asdict(evaluation), indent=2).encode())
    write_file(str(out / "report.html"), render_report(evaluation).encode())
    card = model_folder(settings) / CARD_FILE
    if not settings.serving.model and card.is_file():  # the run's own: another run's directory is left as it is
        write_file(str(card), with_accuracy(card.read_text(), accuracy_rows(report)).encode())
    return evaluation


def margins(
    scorer: SpatialScorer, better: Sequence[np.ndarray], worse: Sequence[np.ndarray], prompts: Sequence[str]
) -> np.ndarray:
    """mu of each better image less mu of the worse one under the same prompt  # [N]."""
    if not prompts:
        return np.empty(0, np.float32)
    winners, losers = _both(scorer, better, worse, prompts)
    return winners.mu - losers.mu


def measure(scorer: SpatialScorer, pairs: Sequence[Pair]) -> tuple[ModelReport, np.ndarray, tuple[Calibration, ...]]:
    """SpatialScore on pairs: its report, which pairs are right  # [N] bool, and its calibration.

    Raises ValueError where `pairs` is empty.
    """
    if not pairs:
        raise ValueError("no held-out pairs to measure on: raise preferences.test_fraction or preferences.pairs")
    w, l = _both(scorer, [p.image_w for p in pairs], [p.image_l for p in pairs], [p.prompt for p in pairs])  # noqa: E741
    turned = [pair for pair in pairs if pair.perturbed_prompt]
    turned_margin = margins(
        scorer, [p.image_l for p in turned], [p.image_w for p in turned], [p.perturbed_prompt or "" for p in turned]
    )
    judged = PairPredictions(w.mu - l.mu, np.zeros(len(pairs), bool))
    half = fit_half(pairs)
    calibrations: tuple[Calibration, ...] = ()
    if half.any() and not half.all():
        calibrations = (
            calibrate("mu", mean_logits(w.mu, l.mu), half),
            calibrate("mu and sigma", gaussian_logits(w.mu, w.sigma, l.mu, l.sigma), half),
        )
    return summarise(NAME, judged, pairs, turned_margin), judged.right, calibrations


def fit_half(pairs: Sequence[Pair]) -> np.ndarray:
    """Which pairs a temperature is fitted on  # [N] bool. Drawn by prompt group, so that none has pairs in both."""
    digests = [hashlib.sha256(f"calibration|{pair.group_id}".encode()).digest() for pair in pairs]
    return np.array([digest[0] < 128 for digest in digests])


def open_scorer(model: str, pool: ServingSettings) -> SpatialScorer:
    """The run's SpatialScore in this process, on the device that the pool's settings reserve."""
    device = init_worker(pool.threads, pool.gpus)
    return SpatialScorer.from_pretrained(
        model, device=str(device), threads=pool.threads, batch_images=pool.batch_images
    )


def _both(
    scorer: SpatialScorer, better: Sequence[np.ndarray], worse: Sequence[np.ndarray], prompts: Sequence[str]
) -> tuple[Scores, Scores]:
    count = len(prompts)
    scores = scorer.score(images=[*better, *worse], prompts=[*prompts, *prompts])
    return Scores(scores.mu[:count], scores.sigma[:count]), Scores(scores.mu[count:], scores.sigma[count:])


def _measure(model: str, folder: str, pool: ServingSettings) -> tuple[ModelReport, np.ndarray, tuple[Calibration, ...]]:
    return measure(open_scorer(model, pool), read_pairs(folder, "test"))


def _report(name: str, judged: PairPredictions, folder: str) -> tuple[ModelReport, np.ndarray]:
    return summarise(name, judged, read_pairs(folder, "test")), judged.right
