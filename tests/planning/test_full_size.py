"""Slow: the published sizes, against independent counts, and the presets against the best division."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from conf import load
from pipelines.planning import policy_work as module
from pipelines.planning.architectures import POLICIES, SCORES, PolicyArchitecture
from pipelines.planning.calibration import Calibration
from pipelines.planning.durations import durations, policy_work, score_work
from pipelines.planning.fleet import machines
from pipelines.planning.gpus import GPU_TYPES
from pipelines.planning.memory import gpu_memory
from pipelines.planning.ops import trace
from pipelines.planning.plan import make_plan
from pipelines.planning.reward_plan import RewardPlan, reward_plans
from pipelines.planning.search import evaluate, split_candidates
from pipelines.planning.work import Work

pytestmark = pytest.mark.slow
GIB = 2**30
PRESET_OF = {
    "StableDiffusion3Pipeline": "sd35_medium",
    "ZImagePipeline": "z_image",
    "Flux2KleinPipeline": "flux2_klein",
}
"""Class of the pipeline -> preset."""
FLUX = POLICIES["black-forest-labs/FLUX.1-dev"]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_deeper_model_is_what_its_blocks_say(compiled: bool) -> None:
    """FLUX's width with 3 + 4 blocks, recorded whole, also with every second block computed again."""
    flux = replace(load("flux_dev").flux, height=256, width=256, compile=compiled)
    deep = PolicyArchitecture(FLUX.family, {**FLUX.transformer, "num_layers": 3, "num_single_layers": 4}, FLUX.vae, 0.0)
    work = module.count_policy(deep, flux)
    for every in (0, 2):
        policy = module.meta_policy(deep, flux, (3, 4), checkpoint_every=every)
        whole = trace(partial(module.forward_pass, policy), backward=True)
        counted, program = Work.of(whole, module.ROWS, compiled), work.training_with(every)
        assert program.flops(module.ROWS).total == pytest.approx(counted.counted_flops(module.ROWS).total, rel=1e-9)
        if not compiled:
            assert program.bytes(module.ROWS) == pytest.approx(counted.moved_bytes(module.ROWS), rel=0.01)
        assert module.ROWS * work.activation_bytes(every) == pytest.approx(whole.peak, rel=0.1)


def test_flux_dev_costs_what_was_worked_out_before() -> None:
    """512 pixels, 512 text tokens, 12 rows: figures of an independent count, see docs/planning.md."""
    flux = load("flux_dev", ["flux.max_sequence_length=512"]).flux
    work, h100, h20 = policy_work(flux), GPU_TYPES["H100"], GPU_TYPES["H20"]
    assert work.transformer_parameters == 11_901_408_320
    assert work.lora_parameters == pytest.approx(89.7e6, rel=0.001)
    assert work.base_forward.flops(1).total == pytest.approx(21.5e12, rel=0.01)
    for program, on_h100, on_h20 in (
        (work.forward, 0.696, 2.655),
        (work.base_forward, 0.660, 2.624),
        (work.training_with(1) + work.base_forward, 2.96, 11.0),
        (work.training_with(0) + work.base_forward, 2.27, 8.4),
    ):
        assert program.seconds(h100, 12) == pytest.approx(on_h100, rel=0.02)
        assert program.seconds(h20, 12) == pytest.approx(on_h20, rel=0.02)
    assert 12 * work.activation_bytes(1) / GIB == pytest.approx(9.6, abs=1)
    assert 12 * work.activation_bytes(0) / GIB == pytest.approx(100, abs=2)
    compiled = policy_work(replace(flux, compile=True))
    assert 0.45 < compiled.forward.seconds(h100, 12) < 0.55


def test_measurements_replace_predictions() -> None:
    """Seconds of 12 rows, scaled to the rows of the settings; what was not measured stays predicted."""
    measured = Calibration("H20", "FLUX", 0, 0, "bfloat16", 32, 1, False, 12, forward_seconds=2.0, replay_seconds=9.0,
                           decode_seconds=0.5, learning_gib=50.0, sampling_gib=30.0)  # fmt: skip
    settings, gpu = load("flux_dev", ["policy.sampling.batch=6", "policy.learner.replay_batch=6"]), GPU_TYPES["H20"]
    seconds, predicted = durations(settings, gpu, measured), durations(settings, gpu)
    assert (seconds.sample_chunk, seconds.accumulate_chunk, seconds.decode_chunk) == (6 * 1.0, 4.5, 3.0)
    assert seconds.score_group == predicted.score_group > 0
    learns = gpu_memory(settings, gpu, measured)[0]
    activations = next(part.gib for part in learns.parts if "activations" in part.name)
    assert activations == pytest.approx((50.0 - 22.17 - 0.16 - 5 * 0.334) / 2, abs=0.1)


def test_spatialscore_has_the_published_parameters() -> None:
    """Without the output layer, which SpatialScore does not load: 8.29 - 0.545 billion for 7B; 3B shares it."""
    settings = load("flux_dev").spatialscore
    billions = [score_work(replace(settings, model=model)).parameters / 1e9 for model in SCORES]
    assert billions == pytest.approx([3.75, 7.75, 32.67], abs=0.01)
    assert 24 * score_work(settings).scoring.flops(1).total / 1e15 == pytest.approx(0.165, rel=0.05)


def test_the_pairs_that_fit_a_worker_of_stage_2_are_printed_and_fit() -> None:
    """One more does not. Passes cost the exchange of gradients and smaller kernels."""
    settings, gpu = (
        load("flux_dev", ["reward.workers=1", "spatialscore.gradient_checkpointing=false"]),
        GPU_TYPES["H100"],
    )

    def plan(pairs: int) -> RewardPlan:
        return next(reward_plans(replace(settings, reward=replace(settings.reward, micro_batch_size=pairs)), gpu))

    whole = plan(0)
    assert whole.gib > whole.usable_gib
    assert 0 < whole.fitting_pairs < whole.pass_pairs == 32
    cut = plan(whole.fitting_pairs)
    assert (cut.gib <= cut.usable_gib, cut.fitting_pairs) == (True, whole.fitting_pairs)
    assert cut.pass_pairs <= whole.fitting_pairs
    assert whole.step_seconds <= cut.step_seconds < 1.2 * whole.step_seconds
    assert cut.mfu * cut.step_seconds == pytest.approx(whole.mfu * whole.step_seconds, rel=1e-6), "the same work"


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("stabilityai/stable-diffusion-3.5-medium", 2.47),
        ("stabilityai/stable-diffusion-3.5-large", 8.15),
        ("Tongyi-MAI/Z-Image", 6.15),
        ("black-forest-labs/FLUX.2-klein-base-4B", 3.88),
        ("black-forest-labs/FLUX.2-klein-base-9B", 9.08),
    ],
)
def test_a_transformer_has_the_published_parameters(model: str, billions: float) -> None:
    """The published sizes, in billions."""
    preset = replace(load(PRESET_OF[POLICIES[model].family]).flux, model=model)
    assert policy_work(preset).transformer_parameters / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("preset", ["sd35_medium", "flux2_klein"])
def test_a_preset_trains_on_one_gpu_of_24_gb(preset: str) -> None:
    """See docs/planning.md. The memory counts the policy, SpatialScore and the largest activations together."""
    plan = make_plan(load(preset, ["plan.gpus=1", "plan.gpu=RTX4090"]))
    as_set = plan.options[0]
    assert not as_set.excess_gib and as_set.iteration_seconds > 0


@pytest.mark.parametrize(
    ("preset", "gpu"),
    [
        ("flux_dev", "H100"),
        ("flux_dev", "H20"),
        ("flux_dev_8gpu", "H20"),
        ("flux_dev_1gpu", "H100"),
        ("qwen_image", "H100"),
        ("sd35_medium", "RTX4090"),
        ("z_image", "H100"),
        ("flux2_klein", "RTX4090"),
    ],
)
def test_a_preset_divides_its_gpus_within_a_tenth_of_the_best(preset: str, gpu: str) -> None:
    """With the preset's own batch and checkpointing, among all divisions, colocated and separate."""
    settings = load(preset)
    given = evaluate(settings, GPU_TYPES[gpu])
    fitting = [
        each for each in split_candidates(settings, len(machines(settings)), GPU_TYPES[gpu]) if not each.excess_gib
    ]
    best = min(each.iteration.seconds for each in fitting)
    assert not given.excess_gib
    assert given.iteration.seconds <= 1.1 * best


def test_what_does_not_fit_lacks_memory_and_small_gpus_get_small_batches() -> None:
    small = make_plan(load("flux_dev", ["plan.gpus=32", "plan.gpu=RTX4090"]))
    assert small.best.excess_gib > 0
    medium = make_plan(load("flux_dev", ["plan.gpus=32", "plan.gpu=L40S"]))
    assert not medium.best.excess_gib
    assert medium.best.iteration_seconds > 0
    assert durations(load("flux_dev"), GPU_TYPES["L40S"]).sample_chunk > 0
