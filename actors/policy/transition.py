"""One denoise step, written once: the sampler draws from it and the learner evaluates it on what was drawn.

Time runs backwards: x_s = (1 - s) x0 + s eps, the model predicts v = eps - x0, and s falls from 1 to 0, so
dt = s_next - s < 0. Everything here is float32 or wider, whatever the model computes in. Axes: B rows, S image tokens,
C packed latent channels; `s` and `s_next` are [B], since the rows of a replay stand at different steps.

Sources: Flow-SDE is Eq. 4 of arXiv 2602.24233 and Flow-GRPO (arXiv 2505.05470, Eq. 9); CPS is "coefficients-preserving
sampling" (arXiv 2509.05952).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class GaussianStep:
    """The Gaussian of the next latent. `diffusion` is what Flow-GRPO's KL divides by."""

    mean: torch.Tensor  # [B, S, C]
    std: torch.Tensor  # [B, 1, 1]
    diffusion: torch.Tensor  # [B, 1, 1] sigma_t of the SDE (std without sqrt(-dt)); for CPS std itself


Transition = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], GaussianStep]
LogProb = Callable[[torch.Tensor, GaussianStep], torch.Tensor]


def _broadcast(s: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return s.to(device=like.device, dtype=like.dtype).view(-1, 1, 1)


def _to_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def euler(x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor) -> torch.Tensor:
    """The noise-free step x + v dt of the probability-flow ODE. It has no density, so no log-probability.

    x, v [B, S, C]; s, s_next [B]. Returns [B, S, C].
    """
    x, v = _to_float32(x), _to_float32(v)
    return x + (_broadcast(s_next, x) - _broadcast(s, x)) * v


def flow_sde_diffusion(s: torch.Tensor, s_next: torch.Tensor, noise_level: float) -> torch.Tensor:
    """sigma_t = a sqrt(s / (1 - s)); at s = 1, where that is infinite, the denominator alone takes s_next.

    The rule for s = 1 is Flow-GRPO's: the first step of every schedule starts there, and s_next is then `sigmas[1]`.
    """
    return noise_level * torch.sqrt(s / (1 - torch.where(s == 1, s_next, s)))


def flow_sde(
    x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor, noise_level: float
) -> GaussianStep:
    """Euler-Maruyama step of the SDE that has the flow's marginals.

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
    """log N(x_next; mean, std^2), **averaged** over the S C elements; clip ranges are stated for this mean.

    x_next [B, S, C] is data: no gradient flows through it. Returns [B].
    """
    distance = (_to_float32(x_next).detach() - step.mean) ** 2 / (2 * step.std**2)
    return (-distance - torch.log(step.std) - _LOG_SQRT_2PI).mean(dim=(1, 2))


def cps(x: torch.Tensor, v: torch.Tensor, s: torch.Tensor, s_next: torch.Tensor, noise_level: float) -> GaussianStep:
    """Coefficients-preserving step: x_next always holds exactly the noise that level s_next asks for.

    x0 = x - s v,  eps = x + (1 - s) v,  std = s_next sin(a pi / 2)
    mean = (1 - s_next) x0 + sqrt(s_next^2 - std^2) eps

    At s_next = 0 the std is 0: that step cannot be trained.
    """
    x, v = _to_float32(x), _to_float32(v)
    s, s_next = _broadcast(s, x), _broadcast(s_next, x)
    std = s_next * math.sin(noise_level * math.pi / 2)
    kept = s_next * math.cos(noise_level * math.pi / 2)  # sqrt(s_next^2 - std^2)
    mean = (1 - s_next) * (x - s * v) + kept * (x + (1 - s) * v)
    return GaussianStep(mean, std, std)


def cps_log_prob(x_next: torch.Tensor, step: GaussianStep) -> torch.Tensor:
    """-(x_next - mean)^2 averaged over elements: as published, **without** dividing by the variance.

    A clip range therefore means something else here than with Flow-SDE. Returns [B].
    """
    return -((_to_float32(x_next).detach() - step.mean) ** 2).mean(dim=(1, 2))


def transition_of(name: str) -> tuple[Transition, LogProb]:
    """The step and the log-probability that belong together: "flow_sde" or "cps"."""
    match name:
        case "flow_sde":
            return flow_sde, flow_sde_log_prob
        case "cps":
            return cps, cps_log_prob
    raise ValueError(f"transition must be one of flow_sde, cps, got {name!r}")
