"""One optimizer step of SpatialScore on one worker: gradient, learning rate, noise, and a saved state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.optim.torch_engine import StepResult
from conf import SettingsError
from conf.reward import RewardSettings
from conf.rules import Dtype
from pipelines.preferences.roles.base import RowSpec
from pipelines.reward.data import Pair, mirrored
from pipelines.reward.fit import RewardFitter, learning_rate, restore
from pipelines.reward.sampler import RankInfo
from pipelines.reward.train_metrics import TrainMetrics
from tests.support.scene_pairs import scene_pairs
from tests.support.tiny_reward import decoded, save_tiny_vlm, tiny_spatialscore

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vlm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2.5-VL's directory."""
    path = tmp_path_factory.mktemp("vlm")
    save_tiny_vlm(path)
    return path


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Eight pairs, two of them without a perturbed prompt."""
    specs = [RowSpec(index, "corrupted" if index % 4 == 0 else "perturbed", index) for index in range(8)]
    return [decoded(pair) for pair in scene_pairs(specs)]


def _grad_norm(vlm_dir: Path, pairs: Sequence[Pair], divisor: int) -> float:
    """Norm of the gradient of the sum of -log sigmoid(mu_w - mu_l) over all comparisons, divided by `divisor`."""
    model = tiny_spatialscore(vlm_dir).train()
    total = torch.zeros(())
    for pair in pairs:
        orders = [(pair.prompt, pair.image_w, pair.image_l)]
        if pair.perturbed_prompt:
            orders.append((pair.perturbed_prompt, pair.image_l, pair.image_w))
        for prompt, winner, loser in orders:
            mu, _ = model(model.processor([winner, loser], [prompt, prompt]))
            total = total + torch.log1p(torch.exp(mu[1] - mu[0]))
    (total / divisor).backward()
    grads = [p.grad for p in model.trainable().values()]
    return torch.cat([grad.flatten() for grad in grads if grad is not None]).norm().item()


@pytest.mark.parametrize("mirror", [False, True])
def test_the_gradient_is_that_of_the_loss_per_pair_of_the_whole_batch(
    vlm_dir: Path, pairs: list[Pair], mirror: bool
) -> None:
    """One of two ranks scales its sum by 2 / batch_size, because the engine averages over ranks."""
    settings = RewardSettings(batch_size=8, workers=1, mirror=mirror, loss="bt", lr=1e-9)
    seen: list[Pair] = pairs
    if mirror:
        fitter = RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU)
        seen = list(fitter._mirror_half(pairs, 3))  # pyright: ignore[reportPrivateUsage]
        assert 0 < sum(s.prompt != p.prompt or s.image_w is not p.image_w for s, p in zip(seen, pairs, strict=True)) < 8
        assert all(s is p or s.prompt == mirrored(p).prompt for s, p in zip(seen, pairs, strict=True))
    whole = RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU).optimizer_step(pairs, 3, 40)
    assert whole.grad_norm == pytest.approx(_grad_norm(vlm_dir, seen, 8), rel=1e-3)
    rank = RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU, RankInfo(0, 2))
    half = rank.optimizer_step(pairs[:4], 3, 40)
    assert half.grad_norm == pytest.approx(_grad_norm(vlm_dir, seen[:4], 4), rel=1e-3)


def _gradient(
    vlm_dir: Path, pairs: Sequence[Pair], micro: int, dtype: Dtype = "float32"
) -> tuple[torch.Tensor, TrainMetrics]:
    """The gradient of one of two ranks with a share of eight pairs, and the metrics of its step."""
    model = tiny_spatialscore(vlm_dir, dtype, gradient_checkpointing=dtype == "bfloat16")
    settings = RewardSettings(batch_size=16, workers=2, loss="sampled", sigma_draws=20, micro_batch_size=micro)
    fitter, metrics, found = RewardFitter(model, settings, CPU, RankInfo(1, 2)), TrainMetrics(), list[torch.Tensor]()
    step = fitter.engine.step

    def keep_gradient(lr: float) -> StepResult:
        found.extend(p.grad.flatten() for p in model.trainable().values() if p.grad is not None)
        return step(lr)

    fitter.engine.step = keep_gradient
    fitter.optimizer_step(pairs, 3, 40, metrics)
    return torch.cat(found), metrics


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_the_gradient_does_not_depend_on_the_pairs_of_a_pass(vlm_dir: Path, pairs: list[Pair], micro: int) -> None:
    """Mirrored pairs, pairs of one and of two comparisons, drawn scores. Of eight by three, passes have 2, 3 and 3."""
    whole, expected = _gradient(vlm_dir, pairs, 0)
    cut, metrics = _gradient(vlm_dir, pairs, micro)
    assert torch.linalg.norm(cut - whole) < 1e-5 * torch.linalg.norm(whole)
    assert metrics.means() == pytest.approx(expected.means(), rel=1e-4)
    assert (metrics.pairs, metrics.correct) == (8, expected.correct)


def test_in_bfloat16_the_gradient_of_several_passes_differs_by_rounding(vlm_dir: Path, pairs: list[Pair]) -> None:
    """It adds up in float32: one part in 2^8 is the rounding of a product."""
    whole, _ = _gradient(vlm_dir, pairs[:3], 0, "bfloat16")
    cut, _ = _gradient(vlm_dir, pairs[:3], 4, "bfloat16")  # passes of 1 and 2 pairs
    assert torch.linalg.norm(cut - whole) < 0.02 * torch.linalg.norm(whole)


@pytest.mark.parametrize("readable", [0, 1, 5])
def test_a_rank_with_unreadable_pairs_does_as_many_passes_as_the_others(
    vlm_dir: Path, pairs: list[Pair], readable: int
) -> None:
    """A pass without a pair adds nothing. With ZeRO-3 a rank that left it out would stop the others."""
    settings = RewardSettings(batch_size=16, workers=2, micro_batch_size=3)
    prepared = RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU, RankInfo(1, 2)).prepare(pairs[:readable], 3)
    counts = [each.pairs for each in prepared.passes]
    assert (len(counts), sum(counts), max(counts) <= 3) == (3, readable, True)
    whole, expected = _gradient(vlm_dir, pairs[:readable], 0)
    cut, metrics = _gradient(vlm_dir, pairs[:readable], 3)
    assert torch.linalg.norm(cut - whole) <= 1e-5 * torch.linalg.norm(whole)
    assert metrics.means() == pytest.approx(expected.means(), rel=1e-4)
    assert metrics.pairs == readable


@pytest.mark.parametrize(
    ("batch", "workers", "micro", "passes", "most"),
    [(32, 8, 0, 1, 4), (32, 3, 0, 1, 11), (32, 2, 4, 4, 4), (32, 2, 6, 3, 6), (32, 3, 10, 2, 6), (32, 8, 100, 1, 4)],
)
def test_every_worker_does_equally_many_passes(batch: int, workers: int, micro: int, passes: int, most: int) -> None:
    settings = RewardSettings(batch_size=batch, workers=workers, micro_batch_size=micro)
    assert (settings.passes(workers), settings.pairs_of_a_pass(workers)) == (passes, most)


def test_a_negative_number_of_pairs_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"reward\.micro_batch_size must be at least 0, got -1"):
        RewardSettings(micro_batch_size=-1)


@pytest.mark.parametrize("micro", [0, 1])
def test_dropout_depends_on_step_and_rank_so_a_resumed_fit_repeats_it(
    vlm_dir: Path, pairs: list[Pair], micro: int
) -> None:
    """The state of the generator is in no checkpoint. Ranks drop different parts of their different rows."""
    model = tiny_spatialscore(vlm_dir, lora_dropout=0.5)
    settings = RewardSettings(batch_size=8, workers=1, mirror=False, lr=1e-9, micro_batch_size=micro)

    def loss(step: int, rank: int) -> float:
        return RewardFitter(model, settings, CPU, RankInfo(rank, 2)).optimizer_step(pairs[:2], step, 40).loss

    first = loss(3, 0)
    assert loss(3, 0) == pytest.approx(first, abs=1e-4)
    assert abs(loss(4, 0) - first) > 1e-3
    assert abs(loss(3, 1) - first) > 1e-3


def test_metrics_are_sums_over_comparisons(vlm_dir: Path, pairs: list[Pair]) -> None:
    """Against the scores of the model itself, in evaluation mode (it has no dropout)."""
    settings, metrics = RewardSettings(batch_size=8, workers=1, mirror=False, loss="bt", lr=1e-9), TrainMetrics()
    result = RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU).optimizer_step(pairs, 0, 40, metrics)
    model = tiny_spatialscore(vlm_dir)
    margins: list[float] = []
    with torch.inference_mode():
        for pair in pairs:
            mu, _ = model(model.processor([pair.image_w, pair.image_l], [pair.prompt] * 2))
            margins.append(float(mu[0] - mu[1]))
            if pair.perturbed_prompt:
                mu, _ = model(model.processor([pair.image_w, pair.image_l], [pair.perturbed_prompt] * 2))
                margins.append(float(mu[1] - mu[0]))
    means = metrics.means()
    assert (metrics.pairs, len(margins)) == (8, 14)
    assert means["margin"] == pytest.approx(np.mean(margins), abs=1e-5)
    expected_loss, expected_accuracy = np.mean(np.logaddexp(0, -np.array(margins))), np.mean(np.array(margins) > 0)
    assert (means["loss"], result.loss) == pytest.approx((expected_loss, expected_loss), rel=1e-4)
    assert (means["accuracy"], result.accuracy) == pytest.approx((expected_accuracy, expected_accuracy))
    assert metrics.flops > 0
    total = TrainMetrics()
    total.merge(metrics)
    total.merge(metrics)
    assert total.means() == means
    assert total.pairs == 16


def test_repeated_steps_learn_the_pairs_and_a_saved_state_resumes_exactly(vlm_dir: Path, pairs: list[Pair]) -> None:
    settings = RewardSettings(batch_size=8, workers=1, mirror=False, lr=3e-3)
    fitter = RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU)
    losses: list[float] = []
    for step in range(12):
        if step == 6:
            trained, engine = fitter.state_dict(), fitter.engine.state_dict()
            fitter = RewardFitter(restore(tiny_spatialscore(vlm_dir), trained), settings, CPU)
            fitter.engine.load_state_dict(engine)
        losses.append(fitter.optimizer_step(pairs, step, 40).loss)
    assert losses[-1] < 0.5 * losses[0]
    uninterrupted = RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU)
    last = [uninterrupted.optimizer_step(pairs, step, 40).loss for step in range(12)][-1]
    assert last == pytest.approx(losses[-1], rel=1e-4)


def test_the_noise_of_the_sampled_loss_does_not_depend_on_the_ranks(vlm_dir: Path, pairs: list[Pair]) -> None:
    """Two ranks with half of the pairs each have the losses that one rank has, comparison by comparison."""
    pairs = pairs[:6]
    settings = RewardSettings(batch_size=6, workers=1, mirror=False, loss="sampled", sigma_draws=20)
    whole, *parts = (
        RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU, rank).optimizer_step(share, 3, 40).loss
        for rank, share in ((RankInfo(0, 1), pairs), (RankInfo(0, 2), pairs[:3]), (RankInfo(1, 2), pairs[3:]))
    )
    counts = [sum(2 if pair.perturbed_prompt else 1 for pair in share) for share in (pairs[:3], pairs[3:])]
    assert whole == pytest.approx(np.average(parts, weights=counts), rel=1e-4)


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    settings = RewardSettings(lr=1e-3, warmup_fraction=0.1, final_lr_fraction=0.2)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.linspace(1e-4, 1e-3, 10))
    assert max(rates) == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(0.6e-3), "half of the way from lr to 0.2 lr"
    assert rates[-1] == pytest.approx(2e-4, rel=0.02)
    assert learning_rate(replace(settings, final_lr_fraction=1.0), 99, 100) == pytest.approx(1e-3)


def test_a_rank_without_a_readable_pair_takes_part_with_a_gradient_of_zero(vlm_dir: Path) -> None:
    settings = RewardSettings(batch_size=2, workers=1, loss="sampled", weight_decay=0.0)
    fitter, metrics = RewardFitter(tiny_spatialscore(vlm_dir), settings, CPU), TrainMetrics()
    before = fitter.state_dict()
    result = fitter.optimizer_step([], 0, 40, metrics)
    assert result.grad_norm == 0.0
    assert all(torch.equal(before[name], value) for name, value in fitter.state_dict().items())
    assert metrics == TrainMetrics()
