"""Held-out accuracy during a fit: the pairs, the shares of the ranks, the weights that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from conf import SettingsError
from conf.load import load
from conf.reward import RewardSettings
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneReviewer
from pipelines.reward.fit import RewardFitter
from pipelines.reward.fit_schedule import FitSchedule
from pipelines.reward.sampler import RankInfo
from pipelines.reward.validation import BestWeights, Validation
from tests.support.pair_sources import source_of
from tests.support.scene_pairs import scene_pairs
from tests.support.tiny_reward import decoded, save_tiny_vlm, tiny_spatialscore


def test_the_ranks_measure_together_what_one_measures_alone(tmp_path: Path) -> None:
    """Against the margins of the pairs in memory. Pairs of the splits train and benchmark are not used."""
    save_tiny_vlm(tmp_path / "vlm")
    pairs = scene_pairs([RowSpec(index, "perturbed", index) for index in range(14)])
    splits = ["test"] * 10 + ["benchmark", "benchmark", "train", "train"]
    (tmp_path / "pairs").mkdir()
    table = to_table(pairs, SceneReviewer().review(pairs), splits, "test")
    pq.write_table(table, tmp_path / "pairs" / "0.parquet", row_group_size=4)
    settings = RewardSettings(batch_size=4, workers=1, evaluate_pairs=100)
    fitter = RewardFitter(tiny_spatialscore(tmp_path / "vlm"), settings, torch.device("cpu"))
    expected = int((fitter.margins([decoded(pair) for pair in pairs[:10]]) > 0).sum())
    source = source_of(tmp_path / "pairs")
    whole = Validation(source, settings, RankInfo(0, 1)).measure(fitter)
    assert (whole.right, whole.pairs) == (expected, 10)
    parts = [Validation(source, settings, RankInfo(rank, 3)).measure(fitter) for rank in range(3)]
    assert [part.pairs for part in parts] == [4, 3, 3]
    assert sum(part.right for part in parts) == expected
    assert fitter.model.training
    assert np.isnan(Validation(source, RewardSettings(evaluate_pairs=0), RankInfo(0, 1)).measure(fitter).share)


def test_the_best_weights_are_kept_until_a_better_measurement_and_survive_a_checkpoint() -> None:
    best = BestWeights(keep=True)
    for step, accuracy in ((1, 0.6), (2, 0.8), (3, 0.8), (4, 0.7)):
        best.add(accuracy, step, {"w": torch.full((1,), float(step))})
        best = BestWeights.of(True, best.state())
    assert (best.step, best.accuracy, best.stale, best.trained["w"].item()) == (2, 0.8, 2, 2.0)
    other_rank = BestWeights(keep=False)
    other_rank.add(0.8, 1, {"w": torch.zeros(1)})
    assert other_rank.trained == {} and other_rank.accuracy == 0.8


def test_keeping_the_best_weights_without_measuring_is_refused() -> None:
    with pytest.raises(SettingsError, match="need measurements on held-out pairs"):
        load("scenes", ["reward.keep=best", "reward.evaluate_pairs=0"])


def test_a_fit_measures_reports_and_saves_at_the_end_of_an_epoch_and_as_often_as_the_settings_say() -> None:
    def when(every: int) -> list[str]:
        schedule = FitSchedule(RewardSettings(evaluate_every=every, log_every=4, checkpoint_every=3), 5, 10)
        whens = (("m", schedule.measures), ("r", schedule.reports), ("s", schedule.saves))
        return ["".join(letter for letter, asks in whens if asks(done)) for done in range(1, 11)]

    assert when(0) == ["", "", "s", "r", "mrs", "s", "", "r", "s", "mrs"]
    assert when(7) == ["", "", "s", "r", "rs", "s", "mr", "r", "s", "rs"]
