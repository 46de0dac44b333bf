"""FLUX.1-dev at full size with random weights, alone on one GPU and without Ray: what each call of stage 3 costs.

    python -m tests.bench.gpu_policy                          # 80 GB, no download, a few minutes
    python -m tests.bench.gpu_policy flux.compile=true        # any settings of the preset flux_dev
    python -m tests.bench.gpu_policy --form full-width        # one block of each kind, on any machine; or tiny

Writes the measurements to --out, as `spatialt2i plan flux_dev calibration=FILE` reads them. Seconds and memory do not
depend on the weights' values, so random ones will do.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from actors.grpo.advantages import group_advantages
from actors.grpo.learner import GrpoLearner
from actors.grpo.replay import replay_batches
from actors.grpo.shares import GroupPart
from actors.optim.torch_engine import OptimizerSettings, TorchEngine
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.policy.transition import transition_of
from actors.spatialscore import SpatialScorer
from actors.types import Conditioning, Trajectory
from conf import Settings, load
from pipelines.planning.calibration import Calibration, write_calibration
from pipelines.planning.gpus import recognize
from tests.bench.gpu_models import Form, pipeline_of, spatialscore_of
from tests.bench.table import Line, seconds, show

ONE_CHUNK = ["policy.prompts_per_iteration=1", "policy.optimizer.steps_per_iteration=1", "policy.learner.ranks=1",
             "policy.learner.engine=torch", "policy.algorithm.ratio_tolerance=1"]  # fmt: skip
"""One rank; the gate's error is measured here, not enforced."""
SMALLER: dict[Form, list[str]] = {
    "full": [],
    "full-width": ["flux.height=256", "flux.width=256", "flux.max_sequence_length=64", "policy.group_size=4",
                   "policy.algorithm.top_k=1", "policy.sampling.batch=2", "policy.learner.replay_batch=2"],
    "tiny": ["flux.height=64", "flux.width=64", "flux.max_sequence_length=24", "flux.dtype=float32"],
}  # fmt: skip
REPEATS = 2
GIB = 2**30


@dataclass(frozen=True)
class Bench:
    """The policy, one prompt's conditioning, and what to compare speeds with."""

    policy: FluxPolicy
    conditioning: Conditioning
    settings: Settings
    forward_flops: float  # of one row
    peak_flops: float  # a second: the data sheet's, what was given, or a large matmul's

    @property
    def batch(self) -> int:
        """Images of a chunk, and rows of a pass of the learner."""
        return self.settings.policy.sampling.batch

    def seconds(self, work: Callable[[], object]) -> float:
        """Median wall-clock of `work`, the device's own included."""

        def whole() -> None:
            work()
            if self.policy.device.type == "cuda":
                torch.cuda.synchronize()

        return seconds(whole, REPEATS)

    def draw(self) -> tuple[torch.Tensor, tuple[Trajectory, ...]]:
        """Samples one chunk with the training plan. Returns its latents and trajectories."""
        plan = SamplingPlan.for_training(self.settings.policy)
        samples = sample(self.policy, [self.conditioning] * self.batch, range(self.batch), plan)
        return samples.latents, samples.trajectories


def prepare(form: Form, words: Sequence[str], peak_tflops: float) -> Bench:
    """Builds the policy, its LoRA away from 0 so that the gate sees it, and counts a forward's operations."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = load("flux_dev", [*ONE_CHUNK, *SMALLER[form], *words])
    policy = FluxPolicy(pipeline_of(form, device), settings.flux)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator).to(device)
    config = policy.transformer.config
    conditioning = Conditioning(
        torch.randn(settings.flux.max_sequence_length, config["joint_attention_dim"], generator=generator).to(
            policy.dtype
        ),
        torch.randn(config["pooled_projection_dim"], generator=generator).to(policy.dtype),
    ).to(device)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), policy.base():
        latents = torch.zeros(1, policy.image_tokens, policy.channels, device=device)
        policy.velocity(latents, torch.ones(1, device=device), policy.batch_conditioning([conditioning]))
    known = recognize(torch.cuda.get_device_name()) if device.type == "cuda" else None
    sheet = known.bf16_tflops if known and policy.dtype == torch.bfloat16 else 0.0
    peak = (peak_tflops or sheet) * 1e12 or matmul_rate(device, policy.dtype)
    return Bench(policy, conditioning, settings, counter.get_total_flops(), peak)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square matmul."""
    n = 8192 if device.type == "cuda" else 512
    a = torch.randn(n, n, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * n**3 / seconds(multiply, REPEATS)


def measure(bench: Bench, form: Form) -> Calibration:
    """Samples, decodes, learns and scores."""
    settings, policy = bench.settings, bench.policy
    steps, batch = settings.policy.sampling.denoise_steps, bench.batch
    peak_gib()  # from here on
    forward = bench.seconds(bench.draw) / steps
    sampling_gib = peak_gib()
    latents, trajectories = bench.draw()
    decode = bench.seconds(lambda: policy.decode(latents)) / batch
    drift = ratio_drift(bench, trajectories)
    peak_gib()
    replay, optimizer = measure_learning(bench, trajectories)
    learning_gib = peak_gib()
    score = measure_scoring(bench, form)
    flux, passes = settings.flux, 3 if settings.policy.algorithm.kl_weight else 2
    model_flops, on_gpu = batch * bench.forward_flops / bench.peak_flops, policy.device.type == "cuda"
    return Calibration(
        device=torch.cuda.get_device_name() if on_gpu else "CPU",
        model=flux.model,
        pixels=flux.height * flux.width,
        text_tokens=flux.max_sequence_length,
        dtype=flux.dtype,
        lora_rank=flux.lora_rank,
        checkpoint_every=flux.checkpoint_every,
        compiled=flux.compile,
        batch=batch,
        forward_seconds=forward,
        replay_seconds=replay,
        decode_seconds=decode,
        score_seconds=score,
        optimizer_seconds=optimizer,
        sampling_gib=sampling_gib,
        learning_gib=learning_gib,
        mfu={"sampling": model_flops / forward, "learning": passes * model_flops / replay},
        ratio_drift=drift,
    )


def ratio_drift(bench: Bench, trajectories: Sequence[Trajectory]) -> list[float]:
    """max |ratio - 1| at each trained denoise step, if the weights that sampled replay in the sampler's batch shape."""
    sampling, policy = bench.settings.policy.sampling, bench.policy
    transition, drift = transition_of(sampling.transition), dict[int, float]()
    for batch in replay_batches(trajectories, [0.0] * len(trajectories), bench.batch):
        rows = batch.to(policy.device)
        gaussian = transition.step(
            rows.x, rows.velocity(policy, bench.conditioning).detach(), rows.s, rows.s_next, sampling.noise_level
        )
        ratio = torch.exp(transition.log_prob(rows.x_next, gaussian) - rows.log_prob)
        for step, value in zip(rows.denoise_step.tolist(), (ratio - 1).abs().tolist(), strict=True):
            drift[step] = max(value, drift.get(step, 0.0))
    return [drift[step] for step in sorted(drift)]


def measure_learning(bench: Bench, trajectories: Sequence[Trajectory]) -> tuple[float, float]:
    """Seconds of one pass of the learner (forward, backward, reference) of `batch` rows, and of an optimizer step."""
    settings = bench.settings.policy
    settings = replace(settings, algorithm=replace(settings.algorithm, top_k=0))
    constants = OptimizerSettings(
        settings.optimizer.betas, settings.optimizer.weight_decay, settings.optimizer.max_grad_norm
    )
    learner = GrpoLearner(bench.policy, TorchEngine(list(bench.policy.trainable().values()), constants), settings)
    advantages = group_advantages(np.arange(len(trajectories), dtype=np.float32), settings.algorithm)
    kept = [trajectories[i] for i in advantages.kept]
    first = GroupPart(0, 1, len(kept[0].train_steps))  # of as many passes as there are trained steps
    replay = bench.seconds(lambda: learner.accumulate(advantages, bench.conditioning, kept, first))

    def step() -> None:
        learner.accumulate(advantages, bench.conditioning, kept, first)
        learner.optimizer_step()

    return replay, max(bench.seconds(step) - replay, 0.0)


def measure_scoring(bench: Bench, form: Form) -> float:
    """Seconds of one image by SpatialScore with random weights, in forward passes of `serving.batch_images`."""
    gc.collect()
    model = spatialscore_of(form, bench.settings, bench.policy.device)
    count = min(bench.settings.serving.batch_images, bench.settings.policy.group_size)
    scorer = SpatialScorer(model, str(bench.policy.device), count)
    side = round(model.config.pixels**0.5)
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    prompts = [" ".join(["a red circle left of a blue square and"] * (1 if form == "tiny" else 12))] * count
    return bench.seconds(lambda: scorer.score(images=images, prompts=prompts)) / count


def peak_gib() -> float:
    """GiB of the GPU since the last call; 0 on a CPU, where it is not measured."""
    if not torch.cuda.is_available():
        return 0.0
    peak = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.reset_peak_memory_stats()
    return peak


def lines_of(found: Calibration, steps: int) -> list[Line]:
    """The measurements as a table."""
    drift = ", ".join(f"{value:.1e}" for value in found.ratio_drift)
    return [
        Line(f"sampling {found.batch} images, {steps} steps", f"{found.forward_seconds * steps:.3f} s, MFU "
             f"{found.mfu['sampling']:.1%}{_peak(found.sampling_gib)}"),
        Line("decoding an image", f"{found.decode_seconds:.4f} s"),
        Line(f"learning from {found.batch} rows", f"{found.replay_seconds:.3f} s, MFU {found.mfu['learning']:.1%}"
             f"{_peak(found.learning_gib)}"),
        Line("an optimizer step", f"{found.optimizer_seconds:.4f} s"),
        Line("scoring an image", f"{found.score_seconds:.4f} s"),
        Line("max |ratio - 1| by trained step", drift),
    ]  # fmt: skip


def _peak(gib: float) -> str:
    return f", peak {gib:.1f} GiB" if gib else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and writes the calibration file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings on top of flux_dev, e.g. flux.compile=true")
    parser.add_argument("--form", choices=get_args(Form), default="full")
    parser.add_argument("--peak", type=float, default=0.0, help="the device's TFLOP/s; default: its data sheet's")
    parser.add_argument("--out", type=Path, default=Path("calibration.json"))
    given = parser.parse_args(arguments)
    bench = prepare(given.form, given.overrides, given.peak)
    found = measure(bench, given.form)
    flux = bench.settings.flux
    parameters = sum(p.numel() for p in bench.policy.transformer.parameters()) / 1e9
    show(
        f"{parameters:.3f} billion parameters, {flux.height} x {flux.width} pixels, {flux.dtype}, LoRA rank "
        f"{flux.lora_rank}, on {found.device} ({bench.peak_flops / 1e12:.2f} TFLOP/s)",
        lines_of(found, bench.settings.policy.sampling.denoise_steps),
    )
    write_calibration(given.out, found)
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
