"""What the reward model sees, what of it trains, and that it saves and scores faithfully."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.spatialscore import SpatialScore, SpatialScorer, load, pair_loss
from tests.actors.spatialscore.conftest import PROMPTS

SIX = (*PROMPTS, *PROMPTS[::-1])


def _scores(model: SpatialScore, batch: object) -> torch.Tensor:
    with torch.inference_mode():
        return model(batch)[0]


def test_image_tokens_use_their_2d_rotary_positions(model: SpatialScore, images: np.ndarray) -> None:
    """Equal to the library's forward from real input_ids, and different from 1-D positions."""
    batch = model.processor(images, [PROMPTS[0]] * 6)
    backbone = model.vlm
    is_image = batch.input_ids == model.processor.template.image_id
    with torch.inference_mode():
        ours = model.hidden_states(batch)
        library = backbone(
            input_ids=batch.input_ids, pixel_values=batch.pixel_values, image_grid_thw=batch.image_grid_thw,
            mm_token_type_ids=is_image.int(),
        ).last_hidden_state  # fmt: skip
        flat = torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids)
        one_dimensional = model.hidden_states(dataclasses.replace(batch, position_ids=flat))
    torch.testing.assert_close(ours, library, rtol=1e-4, atol=1e-4)
    assert (ours - one_dimensional)[:, -1].abs().max() > 0.05


def test_the_padding_side_does_not_matter(model: SpatialScore, images: np.ndarray) -> None:
    right = _scores(model, model.processor(images, SIX))
    left = _scores(model, model.processor(images, SIX, padding_side="left"))
    torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5)


def test_an_image_under_several_prompts_is_encoded_once(model: SpatialScore, images: np.ndarray) -> None:
    shared = model.processor(images[:2], SIX[:4], image_index=[0, 1, 1, 0])
    apart = model.processor(images[[0, 1, 1, 0]], SIX[:4])
    assert len(shared.image_grid_thw) == 2
    torch.testing.assert_close(_scores(model, shared), _scores(model, apart), rtol=1e-4, atol=1e-5)


def test_only_lora_head_and_the_reward_row_train(model: SpatialScore, images: np.ndarray) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = model.vlm
    ids = torch.arange(backbone.config.get_text_config().vocab_size)
    with torch.no_grad():
        rows_before = backbone.get_input_embeddings()(ids).clone()
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2)
    mu, sigma = model.train()(model.processor(images, SIX))
    pair_loss("marginal", mu[:3], sigma[:3], mu[3:], sigma[3:]).mean().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("head.")} == {f"head.{n}" for n in model.head.state_dict()}
    for name in changed:
        assert any(part in name for part in ("lora_A", "lora_B", "trainable_tokens_delta", "head.")), name
    with torch.no_grad():
        moved = (backbone.get_input_embeddings()(ids) != rows_before).any(1)
    assert moved.nonzero().flatten().tolist() == [model.reward_id]
    assert backbone.get_input_embeddings().weight.shape[0] == 128  # never resized


def test_saved_reloads_to_equal_scores(model: SpatialScore, images: np.ndarray, tmp_path: Path) -> None:
    wanted = _scores(model, model.processor(images, SIX))
    for include_backbone in (False, True):
        path = tmp_path / str(include_backbone)
        model.save_pretrained(path, include_backbone=include_backbone)
        again = load(path)
        assert torch.equal(_scores(again, again.processor(images, SIX)), wanted)
        again.save_pretrained(tmp_path / "again", include_backbone=include_backbone)
        twice = load(tmp_path / "again")
        assert torch.equal(_scores(twice, twice.processor(images, SIX)), wanted)


def test_a_score_depends_on_neither_batch_nor_order(model: SpatialScore, images: np.ndarray, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    wanted = _scores(model, model.processor(images, SIX)).numpy()
    for batch_images in (1, 4, 48):
        scorer = SpatialScorer.from_pretrained(tmp_path, batch_images=batch_images)
        np.testing.assert_allclose(scorer.score(images=images, prompts=SIX).mu, wanted, rtol=1e-3, atol=1e-5)
        turned = scorer.score(images=images[::-1], prompts=SIX[::-1]).mu[::-1]
        np.testing.assert_allclose(turned, wanted, rtol=1e-3, atol=1e-5)


def test_a_lost_adapter_weight_is_not_passed_over(model: SpatialScore, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="lacks"):
        load(tmp_path)
