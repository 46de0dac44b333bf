"""What the adapters make of images and prompts: the values of the authors' code, by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipConfig, CLIPModel, PreTrainedTokenizerFast

from actors.rewards.clip import HpsScorer, open_clip_score, open_pickscore
from actors.rewards.clip_input import cleaned, cropped, letterboxed
from actors.rewards.image_reward import ImageReward, ImageRewardScorer
from actors.rewards.scorers import ScorerContext
from actors.rewards.unified_reward import QUESTION
from tests.support.tiny_clip import SIZES, save_tiny_clip


def _columns(width: int, height: int) -> np.ndarray:
    """Each pixel is the number of its column."""
    return np.broadcast_to(np.arange(width, dtype=np.uint8)[:, None], (height, width, 3)).copy()


@pytest.mark.parametrize(("margin", "left"), [(0, 0), (1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_half_a_pixel_of_margin_is_rounded_to_the_even_number_as_by_torchvision(margin: int, left: int) -> None:
    wide = np.asarray(cropped(Image.fromarray(_columns(32 + margin, 32)), 32))
    assert wide.shape == (32, 32, 3) and wide[0, 0, 0] == left
    tall = np.asarray(cropped(Image.fromarray(_columns(32 + margin, 32).transpose(1, 0, 2)), 32))
    assert tall[0, 0, 0] == left
    assert cropped(Image.fromarray(_columns(100, 51)), 32).size == (32, 32)


def test_clip_score_and_image_reward_see_other_columns_than_pickscore(tmp_path: Path) -> None:
    """Of 35 columns, 2 to 33 by the rule of torchvision, and 1 to 32 by that of transformers."""
    save_tiny_clip(tmp_path)
    with torch.no_grad():
        model = CLIPModel.from_pretrained(tmp_path)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path)
    blip = BlipConfig(
        text_config={**SIZES, "vocab_size": 128, "encoder_hidden_size": 32, "max_position_embeddings": 64},
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
    )
    image = _columns(35, 32)
    changed = np.stack([image] * 4)
    for row, column in enumerate((1, 33), start=1):
        changed[row, :, column] = 255 - changed[row, :, column]
    context = ScorerContext(str(tmp_path), "cpu", 4)
    reward = ImageRewardScorer(ImageReward(blip), str(tmp_path), "cpu", 4)
    for scorer, first_is_seen in ((open_clip_score(context), False), (reward, False), (open_pickscore(context), True)):
        pixels = seen_pixels(scorer, changed)
        assert bool((pixels[1] != pixels[0]).any()) == first_is_seen
        assert bool((pixels[2] != pixels[0]).any()) != first_is_seen


def seen_pixels(scorer: object, images: np.ndarray) -> torch.Tensor:
    """The pixels that the vision tower of a scorer gets."""
    model = scorer._model  # type: ignore[attr-defined]
    tower, seen = model.vision if isinstance(model, ImageReward) else model.vision_model, list[torch.Tensor]()
    hook = tower.register_forward_pre_hook(
        lambda _module, values, named: seen.append(named.get("pixel_values", values[0] if values else None)),
        with_kwargs=True,
    )
    scorer.score(images, ["a red circle"] * len(images))  # type: ignore[attr-defined]
    hook.remove()
    return seen[0]


def test_hpsv2_resizes_without_rounding_and_pads_with_black() -> None:
    """PIL's own filter on floats is the reference. Its sharp edges leave the range of the image."""
    image = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (20, 50, 3))
    square = letterboxed(image, 32)
    assert square.shape == (3, 32, 32)
    assert not square[:, :9].any() and not square[:, 22:].any()  # 13 rows of 32: 9 above, 10 below
    for channel in range(3):
        floats = Image.fromarray(image[..., channel].astype(np.float32) / 255)
        expected = np.asarray(floats.resize((32, 13), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(square[channel, 9:22].numpy(), expected, atol=1e-5)
    assert square.max() > 1 and square.min() < 0


def test_hpsv2_is_the_cosine_alone(tmp_path: Path) -> None:
    """Computed here from the towers of the model. `hpsv2.score` does not multiply it by the scale."""
    save_tiny_clip(tmp_path)
    model, tokens = CLIPModel.from_pretrained(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = torch.tensor(((image / 255 - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
    with torch.no_grad():
        shown = model.visual_projection(model.vision_model(pixels).pooler_output)
        read = model.text_projection(model.text_model(**tokens(["a red circle"], return_tensors="pt")).pooler_output)
    expected = torch.nn.functional.cosine_similarity(shown, read).item()
    scorer = HpsScorer(model, str(tmp_path), "cpu", scale=1.0)
    assert scorer.score(image[None], ["a red circle"]).mu[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("black &amp; white", "black & white"),
        ("2 &amp;lt; 3", "2 < 3"),
        ("“a” ‘dog’s’", "\"a\" 'dog's'"),
        ("ﬁne　ＡＢ１", "fine AB1"),
        ("naïve café, 星", "naïve café, 星"),
    ],
)
def test_a_prompt_is_cleaned_as_by_the_tokenizer_of_openai(text: str, read: str) -> None:
    assert cleaned(text) == read


def test_the_question_of_unified_reward_is_that_of_its_authors() -> None:
    """The digest is of the text in `inference_qwen/image_generation/qwen_pair_rank_image_generation.py`, ff6f520."""
    digest = "0fd2f5c43a06516503fde3e64ffc98fff6f3a8815b5eac8dc5f0d81cee686614"
    assert hashlib.sha256(QUESTION.encode()).hexdigest() == digest
