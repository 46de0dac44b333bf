"""One denoise step, written once: the sampler draws from it, and the learner evaluates its density at the drawn latent.

Time runs backwards: x_s = (1 - s) x0 + s eps, the model predicts v = eps - x0, and s falls from 1 to 0, so
dt = s_next - s < 0. All values here are float32 or wider, in whichever dtype the model computes. Axes: B rows, S image
tokens, C packed latent channels; `s` and `s_next` are [B], because the rows of a replay are at different denoise steps.

Sources: Flow-SDE is Eq. 4 of arXiv 2602.24233 and Flow-GRPO (arXiv 2505.05470, Eq. 9); CPS is "coefficients-preserving
sampling" (arXiv 2509.05952).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class GaussianStep:
    """The Gaussian of the next latent. Flow-GRPO's KL divides by `diffusion` instead of `std`."""

    mean: torch.Tensor  # [B, S, C]
    std: torch.Tensor  # [B, 1, 1]
    diffusion: torch.Tensor  # [B, 1, 1] sigma_t of the SDE (std without sqrt(-dt)); for CPS the std itself


@dataclass(frozen=True)
class Transition:
    """A stochastic denoise step and the log-probability that belongs to it."""

    step: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], GaussianStep]
    """(x, v, s, s_next, noise_level) -> the Gaussian of the next latent."""

    log_prob: Callable[[torch.Tensor, GaussianStep], torch.Tensor]
    """(x_next, gaussian) -> [B] log-probability of the drawn latent, a mean over its elements."""


def _broadcast(s: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return s.to(device=like.device, dtype=like.dtype).view(-1, 1, 1)


def _to_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def euler(x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor) -> torch.Tensor:
    """The deterministic step x + v dt of the probability-flow ODE. It has no density, so no log-probability.

    x, v [B, S, C]; s, s_next [B]. Returns [B, S, C].
    """
    x, v = _to_float32(x), _to_float32(v)
    return x + (_broadcast(s_next, x) - _broadcast(s, x)) * v


def flow_sde_diffusion(s: torch.Tensor, s_next: torch.Tensor, noise_level: float) -> torch.Tensor:
    """sigma_t = a sqrt(s / (1 - s)). At s = 1 this is infinite, so there the denominator uses s_next instead of s.

    The rule for s = 1 is Flow-GRPO's: the first step of every schedule starts at 1, and s_next is then `sigmas[1]`.
    """
    return noise_level * torch.sqrt(s / (1 - torch.where(s == 1, s_next, s)))


def flow_sde(
    x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor, noise_level: float
) -> GaussianStep:
    """Euler-Maruyama step of the SDE that has the same marginals as the flow.

    mean = x (1 + sigma_t^2 dt / (2 s)) + v (1 + sigma_t^2 (1 - s) / (2 s)) dt,   std = sigma_t sqrt(-dt)

    x, v [B, S, C]; s, s_next [B] with s > s_next; noise_level a > 0.
    """
    x, v = _to_float32(x), _to_float32(v)
    s, s_next = _broadcast(s, x), _broadcast(s_next, x)
    dt = s_next - s
    diffusion = flow_sde_diffusion(s, s_next, noise_level)
    half = diffusion**2 / (2 * s)
    mean = x * (1 + half * dt) + v * (1 + half * (1 - s)) * dt
    return GaussianStep(mean, diffusion * torch.sqrt(-dt), diffusion)


def flow_sde_log_prob(x_next: torch.Tensor, step: GaussianStep) -> torch.Tensor:
    """The Gaussian log-density of x_next, **averaged** over the S C elements; clip ranges are stated for this mean.

    No gradient flows through x_next [B, S, C]: it is data. Returns [B].
    """
    distance = (_to_float32(x_next).detach() - step.mean) ** 2 / (2 * step.std**2)
    return (-distance - torch.log(step.std) - _LOG_SQRT_2PI).mean(dim=(1, 2))


def cps(x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor, noise_level: float) -> GaussianStep:
    """Coefficients-preserving step: x_next always contains exactly the amount of noise of level s_next.

    x0 = x - s v,  eps = x + (1 - s) v,  std = s_next sin(a pi / 2)
    mean = (1 - s_next) x0 + sqrt(s_next^2 - std^2) eps

    At s_next = 0 the std is 0, so the last step cannot be trained.
    """
    x, v = _to_float32(x), _to_float32(v)
    s, s_next = _broadcast(s, x), _broadcast(s_next, x)
    std = s_next * math.sin(noise_level * math.pi / 2)
    kept = s_next * math.cos(noise_level * math.pi / 2)  # sqrt(s_next^2 - std^2)
    mean = (1 - s_next) * (x - s * v) + kept * (x + (1 - s) * v)
    return GaussianStep(mean, std, std)


def cps_log_prob(x_next: torch.Tensor, step: GaussianStep) -> torch.Tensor:
    """-(x_next - mean)^2 averaged over elements: as published, **without** dividing by the variance.

    Therefore a clip range has another meaning here than with Flow-SDE. Returns [B].
    """
    return -((_to_float32(x_next).detach() - step.mean) ** 2).mean(dim=(1, 2))


FLOW_SDE = Transition(flow_sde, flow_sde_log_prob)
CPS = Transition(cps, cps_log_prob)


def transition_of(name: Literal["flow_sde", "cps"]) -> Transition:
    """The transition that `policy.sampling.transition` names. Raises ValueError for any other name."""
    match name:
        case "flow_sde":
            return FLOW_SDE
        case "cps":
            return CPS
    raise ValueError(f"transition must be one of flow_sde, cps, got {name!r}")
