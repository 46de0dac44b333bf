"""FLUX.1-dev at full size with random weights, alone on one GPU and without Ray: what one group costs.

`python -m tests.bench.gpu_policy` wants an 80 GB card and no download. `--tiny` measures the same on a FLUX of a
million parameters, anywhere. Timings and memory do not depend on the weights' values, so random ones will do.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from actors.grpo.advantages import group_advantages
from actors.grpo.learner import GrpoLearner, OptimizerStepMetrics
from actors.grpo.shared_noise import shared_replay_batches
from actors.optim.torch_engine import OptimizerSettings, TorchEngine
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.types import Conditioning, Trajectory
from conf import Settings, load
from conf.policy import PolicySettings
from tests.bench.table import Line, seconds, show
from tests.support.tiny_flux import random_flux_pipeline

ONE_GROUP = ["policy.prompts_per_iteration=1", "policy.optimizer.steps_per_iteration=1", "policy.learner.ranks=1",
             "policy.learner.engine=torch", "policy.sampling.window=0", "policy.sampling.train_steps=0",
             "policy.sampling.clean_steps=0", "policy.algorithm.ratio_tolerance=1"]  # fmt: skip
"""One group, all six steps trained; the gate's error is measured here, not enforced."""
REPEATS = 2


@dataclass(frozen=True)
class Bench:
    """The policy, one prompt's conditioning, and what to compare speeds with."""

    policy: FluxPolicy
    conditioning: Conditioning
    settings: Settings
    forward_flops: float  # of one row
    peak_flops: float  # a second: a large matmul in the policy's dtype, or what was given

    def seconds(self, work: Callable[[], object]) -> float:
        """Median wall-clock of `work`, the device's own included."""

        def whole() -> None:
            work()
            if self.policy.device.type == "cuda":
                torch.cuda.synchronize()

        return seconds(whole, REPEATS)

    def utilisation(self, forwards: float, duration: float) -> str:
        """Model FLOPs utilisation of so many forwards of one row; recomputed activations do not count."""
        return f"MFU {forwards * self.forward_flops / duration / self.peak_flops:.1%}"


def flux_dev_pipeline(device: torch.device) -> FluxPipeline:
    """FLUX.1-dev's transformer (12 billion parameters), VAE and scheduler in bfloat16, with random weights."""
    # diffusers types these as one-tuples
    channels: Any = (128, 256, 512, 512)
    down: Any = ("DownEncoderBlock2D",) * 4
    up: Any = ("UpDecoderBlock2D",) * 4
    with _made_in(torch.bfloat16, device):
        transformer = FluxTransformer2DModel(guidance_embeds=True)
        vae = AutoencoderKL(
            block_out_channels=channels, down_block_types=down,
            up_block_types=up, latent_channels=16, layers_per_block=2, norm_num_groups=32,
            use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159,
            sample_size=1024,
        )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    nothing: Any = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(scheduler=scheduler, vae=vae.eval(), transformer=transformer.eval(), **nothing)


@contextmanager
def _made_in(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def prepare(tiny: bool, peak_tflops: float) -> Bench:
    """Builds the policy, its LoRA away from 0 so that the gate sees it, and counts a forward's operations."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if tiny:
        settings = load("scenes", [*ONE_GROUP, "policy.sampling.batch=12", "policy.learner.replay_batch=12"])
        pipeline = random_flux_pipeline().to(device)
    else:
        settings = load("flux_dev", ONE_GROUP)
        pipeline = flux_dev_pipeline(device)
    policy = FluxPolicy(pipeline, settings.flux)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator).to(device)
    config = policy.transformer.config
    conditioning = Conditioning(
        torch.randn(settings.flux.max_sequence_length, config["joint_attention_dim"], generator=generator).to(
            policy.dtype
        ),
        torch.randn(config["pooled_projection_dim"], generator=generator).to(policy.dtype),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad(), policy.base():
        latents = torch.zeros(1, policy.image_tokens, policy.channels, device=device)
        policy.velocity(latents, torch.ones(1, device=device), policy.batch_conditioning([conditioning]))
    peak = peak_tflops * 1e12 or matmul_rate(device, policy.dtype)
    return Bench(policy, conditioning, settings, counter.get_total_flops(), peak)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square matmul."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.randn(n, n, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * n**3 / seconds(multiply, REPEATS)


def draw(bench: Bench, batch: int | None = None) -> tuple[torch.Tensor, tuple[Trajectory, ...]]:
    """Samples a group in forward passes of `batch` images. Returns its latents and trajectories."""
    settings = bench.settings.policy
    if batch is not None:
        settings = replace(settings, sampling=replace(settings.sampling, batch=batch))
    count = settings.group_size
    samples = sample(bench.policy, [bench.conditioning] * count, range(count), SamplingPlan.for_training(settings))
    return samples.latents, samples.trajectories


def bench_sampling(bench: Bench, batch: int) -> Line:
    """Denoising a group, without decoding."""
    peak_memory()  # from here on
    duration = bench.seconds(lambda: draw(bench, batch))
    memory = peak_memory()
    count, steps = bench.settings.policy.group_size, bench.settings.policy.sampling.denoise_steps
    shared = draw(bench, batch)[1][0].shared_prefix  # denoise steps that are computed once for the whole group
    forwards = shared + count * (steps - shared)
    return Line(
        f"sampling {count} images, {steps} steps, batch {batch}",
        f"{duration:.3f} s, {count / duration:.2f} images/s, {bench.utilisation(forwards, duration)}, {memory}",
    )


def bench_group(bench: Bench) -> list[Line]:
    """Sampling a group in batches of three sizes, and decoding it."""
    settings, policy = bench.settings.policy, bench.policy
    size, batch = settings.group_size, settings.sampling.batch
    lines = [bench_sampling(bench, rows) for rows in (batch // 2, batch, size)]
    latents, _ = draw(bench)
    with FlopCounterMode(display=False) as counter:
        policy.decode(latents[:1])
    peak_memory()  # from here on
    decoding = bench.seconds(lambda: policy.decode(latents))
    share = size * counter.get_total_flops() / decoding / bench.peak_flops
    return [*lines, Line(f"decoding {size} images", f"{decoding:.3f} s, MFU {share:.1%}, {peak_memory()}")]


def bench_update(bench: Bench, rows: int) -> list[Line]:
    """The update on the best and worst k by `rows` rows in a forward, and how far its first ratio is from 1."""
    settings = replace(bench.settings.policy, learner=replace(bench.settings.policy.learner, replay_batch=rows))
    learner, (_, trajectories) = learner_of(bench, settings), draw(bench)
    advantages = group_advantages(
        np.arange(settings.group_size, dtype=np.float32), replace(settings.algorithm, advantage_std_over="group")
    )
    kept = [trajectories[i] for i in advantages.kept]
    metrics: list[OptimizerStepMetrics] = []
    peak_memory()  # from here on

    def update() -> None:
        learner.accumulate(advantages, bench.conditioning, kept)
        metrics.append(learner.optimizer_step())

    duration, pairs = bench.seconds(update), metrics[0].rows
    latents = sum(batch.forward_rows for batch in shared_replay_batches(kept, advantages.values, rows))
    forwards = latents * (3 if settings.algorithm.kl_weight else 2)  # forward, backward to activations, the reference
    shape = "the sampler's shape" if rows == settings.sampling.batch else "not the sampler's shape"
    return [
        Line(f"update on {len(kept)} x {pairs // len(kept)}, {rows} rows a forward", f"{duration:.3f} s, "
             f"{bench.utilisation(forwards, duration)}, {peak_memory()}"),
        Line(f"    its |ratio - 1| before learning ({shape})", f"{metrics[0].ratio_drift:.2e}"),
    ]  # fmt: skip


def learner_of(bench: Bench, settings: PolicySettings) -> GrpoLearner:
    """A one-rank learner on the same policy."""
    constants = OptimizerSettings(
        settings.optimizer.betas, settings.optimizer.weight_decay, settings.optimizer.max_grad_norm
    )
    return GrpoLearner(bench.policy, TorchEngine(list(bench.policy.trainable().values()), constants), settings)


def peak_memory() -> str:
    """The device's since the last call; on a CPU the process's since its start."""
    if not torch.cuda.is_available():
        return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return f"peak {peak:.1f} GiB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a FLUX of a million parameters instead")
    parser.add_argument("--peak", type=float, default=0.0, help="the device's TFLOP/s; default: a large matmul's")
    given = parser.parse_args(arguments)
    bench = prepare(given.tiny, given.peak)
    policy, flux = bench.policy, bench.settings.flux
    rows = bench.settings.policy.learner.replay_batch
    device = torch.cuda.get_device_name() if policy.device.type == "cuda" else "CPU"
    parameters = sum(p.numel() for p in policy.transformer.parameters()) / 1e9
    show(
        f"{parameters:.3f} billion parameters, {flux.height} x {flux.width} pixels, {flux.dtype}, LoRA rank "
        f"{flux.lora_rank}, on {device} ({bench.peak_flops / 1e12:.2f} TFLOP/s)",
        bench_group(bench) + bench_update(bench, rows) + bench_update(bench, rows // 3),
    )


if __name__ == "__main__":
    main()
