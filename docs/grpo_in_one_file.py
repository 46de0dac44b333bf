"""Top-k GRPO for a text-to-image flow model, complete in one file and without Ray.

    python docs/grpo_in_one_file.py

It trains the LoRA of the tiny FLUX that this repository contains, on one CPU core: 24 iterations in a few minutes. Each
has new prompts, so the reward is noisy, but it rises: 0.775 in the mean of the first eight iterations, 0.81 in the last
eight (seed 0). Each iteration does what the full pipeline does in stage 3 (pipelines/policy/train.py):

    sample   G images for each of P prompts, with a stochastic sampler that records its log-probabilities
    score    each image with a reward, here the exact checker of the scenes world
    select   the best k and the worst k images of each group
    learn    the clipped policy-gradient loss plus a KL term to the base model, written out in `step_loss`

The pipeline adds speed (sampling, scoring and learning on different GPUs at the same time), recovery from lost workers,
and optional extensions of the algorithm. Formulas and sources: docs/mathematics.md.

Axes: P prompts, G images of a group, N = 2k selected images, T denoise steps, K trained denoise steps, S image tokens,
C latent channels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.grpo.advantages import select_top_k, standardize
from actors.policy.base import Policy
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import sample
from actors.policy.transition import flow_sde, flow_sde_log_prob
from actors.types import Conditioning, Prompt, Trajectory
from actors.worker_setup import init_worker
from conf.flux import FluxSettings
from pipelines.common.seeds import group_seeds
from pipelines.policy.rule_reward import RulesReward
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.grammar import training_prompts

PROMPTS = 8  # P, for each iteration
OPTIMIZER_STEPS = 2  # for each iteration; each step learns from half of the groups
GROUP_SIZE = 24  # G
TOP_K = 6  # k: train on the 6 best and the 6 worst images
CLIP_RANGE = 1e-4  # small, because log-probabilities are means over all elements of a latent
KL_WEIGHT = 0.01
LEARNING_RATE = 1e-3
NOISE_LEVEL = 0.7  # a

# T = 6 steps. All but the last draw noise, and the K = 3 noisiest ones are trained.
PLAN = SamplingPlan(denoise_steps=6, noise_level=NOISE_LEVEL, noise_steps=(0, 1, 2, 3, 4), train_steps=(0, 1, 2))


@dataclass(frozen=True)
class Group:
    """The images of one prompt, as the learner needs them."""

    conditioning: Conditioning
    scores: np.ndarray  # [G]
    advantages: torch.Tensor  # [N]
    trajectories: list[Trajectory]  # N


def collect_group(policy: Policy, reward: RulesReward, prompt: Prompt, seeds: Sequence[int]) -> Group:
    """Samples, scores and selects the images of one prompt."""
    (conditioning,) = policy.encode([prompt.text])
    samples = sample(policy, [conditioning] * len(seeds), seeds, PLAN)
    images = policy.decode(samples.latents)  # [G, 64, 64, 3] uint8
    scores = reward.score(images, [prompt.text] * len(seeds)).mu  # [G]: fraction of objects and relations in the image
    kept = select_top_k(scores, TOP_K)  # [N]
    advantages = standardize(scores[kept])  # [N] (r - mean) / (std + 1e-4): all 0 if the scores are equal
    return Group(
        conditioning,
        scores,
        torch.tensor(advantages, dtype=torch.float32),
        [samples.trajectories[i] for i in kept],
    )


@dataclass(frozen=True)
class StepLoss:
    """The loss of one group at one denoise step, and what is worth printing about it."""

    loss: torch.Tensor  # []
    ratio: torch.Tensor  # [N]
    kl: torch.Tensor  # [N]


def step_loss(policy: Policy, group: Group, t: int) -> StepLoss:
    """Replays denoise step t of the selected images, and compares the policy with the one that sampled them."""
    # The sampler went from latent x at noise level s to x_next at s_next, with this log-probability.
    x = torch.stack([trajectory.latents[t] for trajectory in group.trajectories])  # [N, S, C]
    x_next = torch.stack([trajectory.latents[t + 1] for trajectory in group.trajectories])  # [N, S, C]
    old_log_prob = torch.stack([trajectory.log_probs[t] for trajectory in group.trajectories])  # [N]
    s, s_next = (level.expand(len(x)) for level in group.trajectories[0].sigmas[t : t + 2])  # [N]
    rows = policy.batch_conditioning([group.conditioning] * len(x))

    # How likely is the same step now? The transition is the one from which the sampler drew x_next.
    gaussian = flow_sde(x, policy.velocity(x, s, rows), s, s_next, NOISE_LEVEL)
    log_prob = flow_sde_log_prob(x_next, gaussian)  # [N], a mean over S and C

    # PPO's clipped surrogate: no incentive to move the ratio further from 1 than the clip range.
    ratio = torch.exp(log_prob - old_log_prob)
    unclipped = -group.advantages * ratio
    clipped = -group.advantages * ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE)
    surrogate = torch.maximum(unclipped, clipped)  # [N]

    # The KL divergence to the base model, which is the policy without its LoRA.
    with torch.no_grad(), policy.base():
        base = flow_sde(x, policy.velocity(x, s, rows), s, s_next, NOISE_LEVEL)
    kl = ((gaussian.mean - base.mean) ** 2 / (2 * gaussian.diffusion**2)).mean(dim=(1, 2))  # [N]

    return StepLoss((surrogate + KL_WEIGHT * kl).mean(), ratio.detach(), kl.detach())


def optimizer_step(policy: Policy, optimizer: torch.optim.Optimizer, groups: Sequence[Group]) -> list[StepLoss]:
    """One AdamW step on the mean loss of these groups and of the K trained denoise steps."""
    terms: list[StepLoss] = []
    for group in groups:
        for t in PLAN.train_steps:
            term = step_loss(policy, group, t)
            (term.loss / (len(groups) * len(PLAN.train_steps))).backward()
            terms.append(term)
    torch.nn.utils.clip_grad_norm_(policy.trainable().values(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return terms


def train(iterations: int, seed: int = 0) -> list[float]:
    """Runs the iterations and prints one line for each. Returns the mean reward of each iteration's images."""
    init_worker(threads=1, gpus=0)  # more threads do not make so small a model faster
    policy = load_policy(str(checkpoints_dir("flux")), FluxSettings(), seed=seed)
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    reward = RulesReward()
    prompts = training_prompts(PROMPTS * iterations, seed, 0.4)
    rewards: list[float] = []
    for iteration in range(iterations):
        # All groups of an iteration are sampled by the same policy version ...
        groups = [
            collect_group(policy, reward, prompt, group_seeds(seed, iteration, index, GROUP_SIZE))
            for index, prompt in enumerate(prompts[PROMPTS * iteration : PROMPTS * (iteration + 1)])
        ]
        # ... so the ratios of the first optimizer step are 1, and those of the second one are not.
        terms = [optimizer_step(policy, optimizer, groups[i::OPTIMIZER_STEPS]) for i in range(OPTIMIZER_STEPS)]
        drift = max(float((term.ratio - 1).abs().max()) for term in terms[0])
        if drift > 1e-4:
            raise RuntimeError(f"the learner does not reproduce the sampler's log-probabilities: |ratio - 1| = {drift}")
        last_ratio = torch.cat([term.ratio for term in terms[-1]])
        rewards.append(float(np.mean([group.scores for group in groups])))
        print(
            f"iteration {iteration}  reward {rewards[-1]:.3f}  "
            f"clipped {float(((last_ratio - 1).abs() > CLIP_RANGE).float().mean()):.0%}  "
            f"kl {float(torch.cat([term.kl for term in terms[-1]]).mean()):.1e}",
            flush=True,
        )
    return rewards


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description="Top-k GRPO on the embedded model, in one file.")
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.iterations, arguments.seed)


if __name__ == "__main__":
    main()
