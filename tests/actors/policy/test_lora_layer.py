"""The LoRA in the dtype of a bfloat16 base, what a policy finds once, and rows that share a conditioning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.utils import get_peft_model_state_dict

from actors.policy.flux import FluxPolicy
from actors.policy.lora_layer import BaseDtypeLinear
from actors.policy.qwen_image import QwenImagePolicy
from conf.flux import FluxSettings
from tests.support.tiny_flux import TEXTS, perturb_lora


@pytest.fixture
def half(flux_directory: Path) -> FluxPolicy:
    """A policy with a bfloat16 base and a LoRA that has an effect."""
    policy = FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(dtype="bfloat16"))
    perturb_lora(policy, 0.1)
    return policy


def test_a_bfloat16_base_has_the_lora_of_float32_up_to_its_rounding(half: FluxPolicy) -> None:
    layers = [module for module in half.transformer.modules() if isinstance(module, BaseDtypeLinear)]
    assert len(layers) == len(half.trainable()) // 2
    x = torch.randn(2, 5, layers[0].in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
    for layer in layers[:1]:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = layer.base_layer(x).float() + layer.scaling["default"] * (x.float() @ a.T) @ b.T
        actual = layer(x)
        assert actual.dtype == torch.bfloat16 and (actual.float() - layer.base_layer(x).float()).abs().max() > 0.1
        torch.testing.assert_close(actual.float(), expected, atol=0.05, rtol=0.02)


def test_its_gradients_are_float32(half: FluxPolicy) -> None:
    rows = half.batch_conditioning(half.encode(TEXTS))
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    half.velocity(x, torch.full((2,), 0.8), rows).square().mean().backward()
    for name, parameter in half.trainable().items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.any(), name


def test_a_float32_base_has_the_layer_of_peft(policy: FluxPolicy) -> None:
    assert not any(isinstance(module, BaseDtypeLinear) for module in policy.transformer.modules())


def test_the_lora_is_found_under_the_keys_of_peft(policy: FluxPolicy, qwen_image: QwenImagePolicy) -> None:
    for each in (policy, qwen_image):
        expected, actual = get_peft_model_state_dict(each.transformer), each.lora_state()
        assert list(actual) == list(expected)
        assert all(actual[key].data_ptr() == value.data_ptr() for key, value in expected.items())
        assert (each.device, each.dtype) == (each.transformer.device, torch.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_one_conditioning_are_stacked_as_others(flux_directory: Path, dtype: str) -> None:
    policy = FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(dtype=dtype))  # type: ignore[arg-type]
    (one,) = policy.encode(TEXTS[:1])
    (again,) = policy.encode(TEXTS[:1])
    shared, stacked = policy.batch_conditioning([one] * 3), policy.batch_conditioning([one, again, one])
    x, s = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.8)
    with torch.no_grad():
        assert torch.equal(policy.velocity(x, s, shared), policy.velocity(x, s, stacked))
