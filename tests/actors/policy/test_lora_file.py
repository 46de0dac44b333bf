"""The exported LoRA file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from actors.policy.lora import read_lora, save_lora
from conf.flux import FluxSettings


def test_an_exported_lora_is_read_back_unchanged(tmp_path: Path) -> None:
    settings = replace(FluxSettings(), lora_rank=4, lora_alpha=8)
    state = {
        "transformer_blocks.0.attn.to_q.lora_A.weight": torch.randn(4, 96),
        "transformer_blocks.0.attn.to_q.lora_B.weight": torch.randn(96, 4),
    }
    save_lora(state, settings, tmp_path)
    found = read_lora(tmp_path, settings)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
