"""The reward model: its input, its head, its trainable parameters, and how it is saved and loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.spatialscore import ScoreBatch, SpatialScore, SpatialScorer, load, pair_loss
from actors.spatialscore.model import ScoreHead
from tests.support.tiny_reward import PROMPTS

PROMPTS_6 = (*PROMPTS, *PROMPTS[::-1])


def _scores(model: SpatialScore, batch: ScoreBatch) -> torch.Tensor:
    with torch.inference_mode():
        return model(batch)[0]


def test_image_tokens_use_their_2d_rotary_positions(model: SpatialScore, images: np.ndarray) -> None:
    """Equal to the library's forward from real input_ids, and different from 1-D positions."""
    batch = model.processor(images, [PROMPTS[0]] * 6)
    backbone = model.vlm
    is_image = batch.input_ids == model.processor.template.image_id
    with torch.inference_mode():
        hidden = model.hidden_states(batch)
        library = backbone(
            input_ids=batch.input_ids,
            pixel_values=batch.pixel_values,
            image_grid_thw=batch.image_grid_thw,
            mm_token_type_ids=is_image.int(),
        ).last_hidden_state
        flat = torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids)
        one_dimensional = model.hidden_states(dataclasses.replace(batch, position_ids=flat))
    torch.testing.assert_close(hidden, library, rtol=1e-4, atol=1e-4)
    assert (hidden - one_dimensional)[:, -1].abs().max() > 0.05


def test_the_score_is_read_at_the_last_token_of_each_row(model: SpatialScore, images: np.ndarray) -> None:
    """Rows have different lengths; with right padding the last token is not in the last column."""
    tokens = [model.processor.template.encode(prompt) for prompt in PROMPTS_6]
    lengths = [len(t.before) + 16 + len(t.after) for t in tokens]  # 64 x 64 pixels are 4 x 4 image tokens
    assert len(set(lengths)) > 1
    batch = model.processor(images, PROMPTS_6)
    with torch.inference_mode():
        hidden = model.hidden_states(batch)
        expected = model.head(torch.stack([hidden[row, length - 1] for row, length in enumerate(lengths)]))
        mu, sigma = model(batch)
    assert torch.equal(mu, expected[0])
    assert torch.equal(sigma, expected[1])


def test_the_head_is_an_mlp_whose_log_sigma_is_clamped() -> None:
    """Against the formula by hand; the last layer's bias moves log sigma below, between and above the bounds."""
    torch.manual_seed(0)
    head = ScoreHead(hidden=6, width=4, log_sigma_min=-1.5, log_sigma_max=0.75)
    first, last = head.layers[0], head.layers[2]
    hidden = torch.randn(5, 6)
    for bias, bound in ((-50.0, -1.5), (0.0, None), (50.0, 0.75)):
        with torch.no_grad():
            last.bias.copy_(torch.tensor([30.0, bias]))
        before = hidden.numpy() @ first.weight.detach().numpy().T + first.bias.detach().numpy()
        activation = before / (1 + np.exp(-before))
        mu_log_sigma = activation @ last.weight.detach().numpy().T + last.bias.detach().numpy()
        mu, sigma = head(hidden)
        np.testing.assert_allclose(mu.detach().numpy(), mu_log_sigma[:, 0], rtol=1e-5)  # not clamped
        expected = np.exp(mu_log_sigma[:, 1] if bound is None else np.full(5, bound))
        np.testing.assert_allclose(sigma.detach().numpy(), expected, rtol=1e-5)
    mu, sigma = head(hidden.bfloat16())
    assert mu.dtype == sigma.dtype == torch.float32


def test_the_padding_side_does_not_matter(model: SpatialScore, images: np.ndarray) -> None:
    right = _scores(model, model.processor(images, PROMPTS_6))
    left = _scores(model, model.processor(images, PROMPTS_6, padding_side="left"))
    torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5)


def test_an_image_under_several_prompts_is_encoded_once(model: SpatialScore, images: np.ndarray) -> None:
    shared = model.processor(images[:2], PROMPTS_6[:4], image_index=[0, 1, 1, 0])
    apart = model.processor(images[[0, 1, 1, 0]], PROMPTS_6[:4])
    assert len(shared.image_grid_thw) == 2
    torch.testing.assert_close(_scores(model, shared), _scores(model, apart), rtol=1e-4, atol=1e-5)


def test_only_the_lora_the_head_and_the_reward_row_are_trained(model: SpatialScore, images: np.ndarray) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = model.vlm
    ids = torch.arange(backbone.config.get_text_config().vocab_size)
    with torch.no_grad():
        rows_before = backbone.get_input_embeddings()(ids).clone()
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2)
    mu, sigma = model.train()(model.processor(images, PROMPTS_6))
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


def test_a_saved_model_reloads_to_equal_scores(model: SpatialScore, images: np.ndarray, tmp_path: Path) -> None:
    expected = _scores(model, model.processor(images, PROMPTS_6))
    for include_backbone in (False, True):
        path = tmp_path / str(include_backbone)
        model.save_pretrained(path, include_backbone=include_backbone)
        again = load(path)
        assert torch.equal(_scores(again, again.processor(images, PROMPTS_6)), expected)
        again.save_pretrained(tmp_path / "again", include_backbone=include_backbone)
        twice = load(tmp_path / "again")
        assert torch.equal(_scores(twice, twice.processor(images, PROMPTS_6)), expected)


def test_a_score_depends_on_neither_batch_nor_order(model: SpatialScore, images: np.ndarray, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    expected = _scores(model, model.processor(images, PROMPTS_6)).numpy()
    for batch_images in (1, 4, 48):
        scorer = SpatialScorer.from_pretrained(tmp_path, batch_images=batch_images)
        np.testing.assert_allclose(scorer.score(images=images, prompts=PROMPTS_6).mu, expected, rtol=1e-3, atol=1e-5)
        reversed_order = scorer.score(images=images[::-1], prompts=PROMPTS_6[::-1]).mu[::-1]
        np.testing.assert_allclose(reversed_order, expected, rtol=1e-3, atol=1e-5)


def test_a_missing_adapter_weight_is_refused(model: SpatialScore, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="lacks"):
        load(tmp_path)
