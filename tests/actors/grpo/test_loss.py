from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from actors.grpo.loss import Prediction, clipped_ratio_loss, divergence_of
from actors.policy.transition import flow_sde, flow_sde_log_prob, transition_of


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_clipped_ratio_by_hand() -> None:
    """eps = 0.1: A > 0 is bounded above by 1.1, A < 0 below by 0.9; the pessimistic of the two counts."""
    ratios, advantages = tensor(1.2, 1.2, 0.8, 0.8, 1.05), tensor(1, -1, 1, -1, 2)
    result = clipped_ratio_loss(ratios.log(), advantages, 0.1)
    torch.testing.assert_close(result.loss, tensor(-1.1, 1.2, -0.8, 0.9, -2.1))
    assert result.clipped.tolist() == [True, False, False, True, False]
    torch.testing.assert_close(result.ratio, ratios)


def predictions() -> tuple[Prediction, Prediction, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, v, base = torch.randn(3, 2, 3, 4, generator=generator, dtype=torch.float64)
    s, s_next = tensor(1.0, 0.6), tensor(0.8, 0.3)
    transition = transition_of("flow_sde").step
    v.requires_grad_()
    new = Prediction(v, transition(x, v, s, s_next, 0.7))
    return new, Prediction(base, transition(x, base, s, s_next, 0.7)), v, s - s_next


def test_the_divergences_against_torch_distributions() -> None:
    new, base, _, step = predictions()
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(new.gaussian.mean, new.gaussian.std),
        torch.distributions.Normal(base.gaussian.mean, new.gaussian.std),
    ).mean(dim=(1, 2))
    torch.testing.assert_close(divergence_of("gaussian")(new, base), exact)
    torch.testing.assert_close(divergence_of("flow_grpo")(new, base), exact * step)
    squared = ((new.velocity - base.velocity) ** 2).mean(dim=(1, 2))
    torch.testing.assert_close(divergence_of("velocity")(new, base), squared)
    with pytest.raises(ValueError, match="kl_form must be one of"):
        divergence_of("kl")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["flow_grpo", "gaussian", "velocity"])
def test_divergences_pull_towards_the_base(form: Literal["flow_grpo", "gaussian", "velocity"]) -> None:
    new, base, v, _ = predictions()
    divergence_of(form)(new, base).sum().backward()
    assert v.grad is not None
    assert ((v.grad * (new.velocity - base.velocity)).sum(dim=(1, 2)) > 0).all()


def test_the_whole_objective_against_finite_differences() -> None:
    """Gradient of ratio loss + KL through the transition, in float64, inside and outside the clip."""
    generator = torch.Generator().manual_seed(0)
    x, base, drawn = torch.randn(3, 2, 2, 3, generator=generator, dtype=torch.float64)
    s, s_next, advantage = tensor(1.0, 0.6), tensor(0.8, 0.3), tensor(1.3, -0.7)
    old = flow_sde_log_prob(drawn, flow_sde(x, base, s, s_next, 0.7)).detach()

    def objective(v: torch.Tensor) -> torch.Tensor:
        new = Prediction(v, flow_sde(x, v, s, s_next, 0.7))
        reference = Prediction(base, flow_sde(x, base, s, s_next, 0.7))
        terms = clipped_ratio_loss(flow_sde_log_prob(drawn, new.gaussian) - old, advantage, 0.05)
        return (terms.loss + 0.1 * divergence_of("flow_grpo")(new, reference)).sum()

    v = (base + 0.02 * torch.randn(base.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(objective, (v,), eps=1e-6, atol=1e-6)
    on_policy = base.clone().requires_grad_()
    objective(on_policy).backward()
    assert on_policy.grad is not None and not math.isclose(on_policy.grad.abs().sum().item(), 0.0)
