"""Stage 3's speed as ratios within one run: sampler, updates by window and k, loop, and how busy each role is.

Needs no trained reward: images are scored by their redness, in both loops. The base is the shipped tiny FLUX.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import ray
import torch

from actors.grpo.advantages import Advantages, group_advantages
from actors.grpo.base_learner import Learner
from actors.grpo.batch_std import batch_std
from actors.grpo.objective import learner_of as choose_learner
from actors.optim.torch_engine import OptimizerSettings, TorchEngine
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from conf import Settings, load
from pipelines.common.prompts import draw_training_prompts
from pipelines.common.seeds import group_seeds
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.train import train_policy
from tests.bench.table import Line, seconds, show
from tests.support.light_actors import Redness
from tests.support.rewards import RednessPool

ITERATIONS = 5  # the first is a warm-up
COLOCATED = ("policy.placement=colocated", "policy.rollout.max_actors=0", "policy.rollout.min_actors=0")
PLACEMENTS: dict[str, tuple[str, ...]] = {
    "2 rollout actors and a learner rank": (),
    "the same, max_staleness 1": ("policy.max_staleness=1",),
    "1 colocated worker of 2 threads": (*COLOCATED, "policy.learner.threads=2"),
    "2 colocated workers": (*COLOCATED, "policy.learner.ranks=2", "policy.learner.engine=deepspeed"),
}
"""Who samples and who learns on two cores."""
TOP_K = (4, 6, 0)
WINDOWS = (1, 2, 3, 5)


def bench_sampler(policy: FluxPolicy, settings: Settings) -> list[Line]:
    """Latents of one group: our sampler without noise, as in training, and FluxPipeline.__call__."""
    policy_settings, flux = settings.policy, settings.flux
    count, steps, text = (
        policy_settings.group_size,
        policy_settings.sampling.denoise_steps,
        "a red circle left of a blue square",
    )
    conditioning = policy.encode([text]) * count
    policy.pipeline.set_progress_bar_config(disable=True)

    def plain() -> None:
        policy.pipeline(
            prompt=[text] * count, height=flux.height, width=flux.width, num_inference_steps=steps,
            guidance_scale=flux.guidance, max_sequence_length=flux.max_sequence_length, output_type="latent",
            generator=[torch.Generator().manual_seed(seed) for seed in range(count)],
        )  # fmt: skip

    with policy.base():
        theirs = seconds(plain)
        ours = seconds(lambda: sample(policy, conditioning, range(count), SamplingPlan(steps)))

    def training(shared_initial_noise: bool) -> float:
        plan = SamplingPlan.for_training(
            replace(
                policy_settings, sampling=replace(policy_settings.sampling, shared_initial_noise=shared_initial_noise)
            )
        )
        return seconds(lambda: sample(policy, conditioning, range(count), plan))

    own, shared = training(False), training(True)
    return [
        Line(f"FluxPipeline.__call__, {count} images, {steps} steps", f"{theirs:.3f} s"),
        Line("our sampler, same model, batch and steps", f"{ours:.3f} s  ({ours / theirs:.2f} x)"),
        Line("our sampler with LoRA, noise and log-probs", f"{own:.3f} s  ({own / theirs:.2f} x)"),
        Line("the same with shared initial noise", f"{shared:.3f} s  ({shared / theirs:.2f} x)"),
    ]


def learner_of(settings: Settings) -> Learner:
    """A one-rank learner of the settings' objective in this process."""
    policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux, transformer_only=True)
    constants = OptimizerSettings(
        settings.policy.optimizer.betas, settings.policy.optimizer.weight_decay, settings.policy.optimizer.max_grad_norm
    )
    engine = TorchEngine(list(policy.trainable().values()), constants)
    return choose_learner(policy, engine, settings.policy)


def one_process(policy: FluxPolicy, settings: Settings) -> float:
    """Median seconds of an iteration with the same stages one after the other, in this process."""
    learner, reward, wanted = learner_of(settings), Redness(), settings.policy
    prompts = draw_training_prompts(wanted, settings.flux)
    per_step = wanted.prompts_per_iteration // wanted.optimizer.steps_per_iteration

    def iteration() -> None:
        policy.load_lora(learner.weights().lora)
        for index in range(wanted.prompts_per_iteration):
            prompt = prompts[learner.version * wanted.prompts_per_iteration + index]
            seeds = group_seeds(wanted.seed, learner.version, index, wanted.group_size)
            conditioning = policy.encode([prompt.text])[0]
            drawn = sample(
                policy, [conditioning] * len(seeds), seeds, SamplingPlan.for_training(learner.settings), learner.version
            )
            scores = reward.score(policy.decode(drawn.latents), (prompt.text,) * len(seeds))
            advantages = group_advantages(scores.mu, wanted.algorithm)
            learner.accumulate(advantages, conditioning, [drawn.trajectories[i] for i in advantages.kept])
            groups.append((scores.mu, advantages))
            if len(groups) == per_step:
                learner.optimizer_step(batch_std(groups, wanted.algorithm.advantage_mean_over))
                groups.clear()
        learner.end_iteration()

    groups: list[tuple[np.ndarray, Advantages]] = []
    return seconds(iteration, ITERATIONS - 1)


def distributed(settings: Settings) -> list[dict[str, float]]:
    """Rows of a run over Ray actors, without the warm-up."""
    pool = RednessPool()
    try:
        result = train_policy(settings, pool, lambda line: None)
    finally:
        pool.stop()
    return [json.loads(line) for line in result.metrics.read_text().splitlines()][1:]


def bench_updates(policy: FluxPolicy, settings: Settings) -> list[Line]:
    """Seconds that the learner spends on one group, by what the filter keeps and the steps of the window."""
    wanted = replace(settings.policy, sampling=replace(settings.policy.sampling, window=0, train_steps=0))
    learner = learner_of(settings)
    conditioning = policy.encode(["a red circle left of a blue square"])[0]
    plan = SamplingPlan.for_training(wanted)
    drawn = sample(policy, [conditioning] * wanted.group_size, range(wanted.group_size), plan)
    scores = np.arange(wanted.group_size, dtype=np.float32)

    def learn(top_k: int, window: int, shared: int) -> float:
        advantages = group_advantages(scores, replace(wanted.algorithm, top_k=top_k))
        trained = plan.train_steps[:window]
        kept = [replace(drawn.trajectories[i], train_steps=trained, shared_prefix=shared) for i in advantages.kept]
        return seconds(lambda: learner.accumulate(advantages, conditioning, kept), 3)

    return [
        Line(
            f"learning a group of {wanted.group_size}, {f'k = {top_k}' if top_k else 'no filter'}{noises}",
            ", ".join(f"{window} steps {learn(top_k, window, shared):.3f} s" for window in WINDOWS),
        )
        for noises, shared in (("", 1), (", independent initial noise", 0))
        for top_k in TOP_K
    ]


def bench_objectives(policy: FluxPolicy, settings: Settings) -> list[Line]:
    """CPU time of a group, from noise to gradient without decoding and scoring, by objective."""
    conditioning = policy.encode(["a red circle left of a blue square"])[0]
    scores = np.arange(settings.policy.group_size, dtype=np.float32)

    def of(*overrides: str) -> tuple[float, float]:
        wanted = load("scenes", [f"run_dir={settings.run_dir}", *overrides])
        learner, plan = learner_of(wanted), SamplingPlan.for_training(wanted.policy)
        count = wanted.policy.group_size
        advantages = group_advantages(scores, wanted.policy.algorithm)
        drawn = sample(policy, [conditioning] * count, range(count), plan)
        kept = [drawn.trajectories[i] for i in advantages.kept]
        sampling = seconds(lambda: sample(policy, [conditioning] * count, range(count), plan), clock=time.process_time)
        return sampling, seconds(lambda: learner.accumulate(advantages, conditioning, kept), 3, clock=time.process_time)

    (grpo_sampling, grpo_learning), (nft_sampling, nft_learning) = of(), of("policy.algorithm.objective=nft")
    share = (nft_sampling + nft_learning) / (grpo_sampling + grpo_learning)
    return [
        Line("grpo: CPU time of sampling and of learning a group", f"{grpo_sampling:.3f} s, {grpo_learning:.3f} s"),
        Line("nft: the same", f"{nft_sampling:.3f} s, {nft_learning:.3f} s  ({share:.2f} x together)"),
    ]


def bench_loop(policy: FluxPolicy, settings: Settings) -> list[Line]:
    """The distributed loop, compared with the same stages in one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    alone = one_process(policy, settings)
    torch.set_num_threads(threads)
    lines = [Line("an iteration in one process, one thread for each core", f"{alone:.2f} s")]
    for number, (name, changes) in enumerate(PLACEMENTS.items()):
        own = load("scenes", [*given(f"{settings.run_dir}-{number}"), *changes])
        lines += busy(name, distributed(own), alone)
    return lines


def busy(name: str, rows: Sequence[dict[str, float]], alone: float) -> list[Line]:
    """How busy each role was during the iterations of one run, and the time of publishing."""

    def median(values: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(values(row) for row in rows)

    def share(values: Callable[[dict[str, float]], float]) -> str:
        return f"{median(lambda row: values(row) / row['iteration_seconds']):.0%}"

    total, actors = median(lambda row: row["iteration_seconds"]), median(lambda row: row["rollout_actors"])
    sampling = (
        Line("    rollout actors busy", share(lambda row: row["sampling_seconds"] / row["rollout_actors"]))
        if actors
        else Line("    learner ranks sample", share(lambda row: row["learner_sampling_seconds"]))
    )
    return [
        Line(f"an iteration, {name}", f"{total:.2f} s ({total / alone:.2f} x)"),
        Line("    learner ranks learn", share(lambda row: row["learn_seconds"])),
        sampling,
        Line("    rewards busy",
             share(lambda row: row["iteration_seconds"] - row["reward_idle_seconds"] / row["reward_replicas"])),
        Line("    publishing the weights", f"{median(lambda row: row['publish_seconds']) * 1000:.0f} ms"),
        Line("    latency of a group's scores", f"{median(lambda row: row['score_latency_seconds']) * 1000:.0f} ms"),
    ]  # fmt: skip


def given(run_dir: str) -> list[str]:
    """Settings of every run."""
    return [f"run_dir={run_dir}", f"policy.iterations={ITERATIONS}", "policy.evaluation.every=0",
            "policy.checkpoint.every=1000"]  # fmt: skip


def main() -> None:
    """Runs all measurements, in about two minutes on two cores."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = load("scenes", given(f"{folder}/run"))
        policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux)
        lines = bench_sampler(policy, settings) + bench_updates(policy, settings)
        lines += bench_objectives(policy, settings)
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            lines += bench_loop(policy, settings)
        finally:
            ray.shutdown()
    show("policy", lines)


if __name__ == "__main__":
    main()
