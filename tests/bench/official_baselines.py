"""The published reward models against their authors' code, on the same random weights, images and prompts.

    pip install --no-deps --target FOLDER transformers==4.45.2 tokenizers==0.20.3 huggingface_hub==0.25.2 \\
        hpsv3==1.0.0 image-reward==1.5 t2v-metrics==1.2 timm==1.0.31 fairscale==0.4.13
    pip install --no-deps --target FOLDER/newer transformers==4.52.4 tokenizers==0.21.4 huggingface_hub==0.30.2 \\
        torchvision==0.28.0 hpsv2==1.2.0 openai-clip==1.0.1 ftfy==6.3.1 wcwidth==0.9.4 qwen-vl-utils==0.0.14
    python -m tests.bench.official_baselines FOLDER [NAME ...]

The authors' code needs an old transformers, so it runs in a process of its own, with the packages of FOLDER. It is
not part of the tests, which install nothing. torchvision must fit the installed torch: 0.28 is for torch 2.13.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BlipConfig,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    T5Config,
)

from actors.rewards.hpsv3 import Hpsv3
from actors.rewards.image_reward import ImageReward, from_published
from actors.rewards.vqascore import AFTER, BEFORE, ClipFlanT5, VqaScorer
from tests.bench.official_clips import clip_score, hpsv2, pickscore
from tests.bench.official_sizes import (
    BERT,
    HPSV3_WIDTHS,
    IMAGE_ID,
    LENGTH,
    PATCH,
    QWEN_TEXT,
    QWEN_VISION,
    REWARD_ID,
    ROWS,
    SIDE,
    T5,
    TOWER,
    VOCABULARY,
    WIDTH,
)
from tests.bench.official_unified import unified_reward
from tests.support.tiny_clip import save_tiny_clip

_SIDE_FILE = Path(__file__).with_name("official_side.py")
_NEWER_SIDE_FILE = Path(__file__).with_name("official_newer_side.py")


def main(packages: str, *names: str) -> None:
    """Prints the largest difference, and the largest score, of each model or of those named."""
    torch.manual_seed(0)
    newer = f"{packages}/newer:{packages}"

    def official(name: str, folder: Path) -> None:
        _official(name, folder, newer, _NEWER_SIDE_FILE)

    models: dict[str, Callable[[Path], np.ndarray]] = {
        "hpsv3": _hpsv3,
        "imagereward": lambda folder: _image_reward(folder, packages),
        "vqascore": _vqascore,
    }
    newer_models: dict[str, Callable[[Path], np.ndarray]] = {
        "clip": lambda folder: clip_score(folder, official),
        "pickscore": lambda folder: pickscore(folder, official),
        "hpsv2": lambda folder: hpsv2(folder, official),
        "unifiedreward": unified_reward,
    }
    for name, make in {**models, **newer_models}.items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            ours = make(Path(folder))
            _official(name, Path(folder), packages) if name in models else official(name, Path(folder))
            theirs = torch.load(Path(folder) / "scores.pt").numpy()
        largest, difference = np.abs(ours).max(), np.abs(ours - theirs).max()
        print(f"{name:<14} {ours.size} values up to {largest:.3g} differ by {difference:.1e}", flush=True)


def _official(name: str, folder: Path, packages: str, file: Path = _SIDE_FILE) -> None:
    paths = f"{packages}:{Path(__file__).parents[2]}"
    subprocess.run([sys.executable, file, name, folder], check=True, env={**os.environ, "PYTHONPATH": paths})


@torch.no_grad()
def _hpsv3(folder: Path) -> np.ndarray:
    """Rows of different lengths, padded on the right, with an image each."""
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 2, 2]}
    ids_of: dict[str, Any] = {
        "image_token_id": IMAGE_ID,
        "video_token_id": 7,
        "vision_start_token_id": 4,
        "vision_end_token_id": 5,
    }
    config = Qwen2VLConfig(text_config={**QWEN_TEXT, "rope_parameters": rope}, vision_config=QWEN_VISION, **ids_of)
    model = Hpsv3(config, HPSV3_WIDTHS).eval()
    for layer in (0, 3, 5):
        cast(torch.nn.Linear, model.rm_head[layer]).weight.mul_(4.0)  # scores of the size of the published ones
    ids, mask = torch.zeros(ROWS, LENGTH, dtype=torch.long), torch.zeros(ROWS, LENGTH, dtype=torch.long)
    tokens = (SIDE // PATCH // 2) ** 2
    for row, words in enumerate((20, 28, 11)):
        text = torch.randint(10, VOCABULARY, (words,))
        line = torch.cat([torch.tensor([1, 4, *[IMAGE_ID] * tokens, 5]), text, torch.tensor([REWARD_ID, 2])])
        ids[row, : len(line)], mask[row, : len(line)] = line, 1
    grid = torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]] * ROWS)
    pixels = torch.randn(ROWS * (SIDE // PATCH) ** 2, 3 * 2 * PATCH**2)
    weights = {
        name.replace("backbone.language_model.", "model.").replace("backbone.", ""): value
        for name, value in model.state_dict().items()
    }
    torch.save({"weights": weights, "ids": ids, "mask": mask, "grid": grid, "pixels": pixels}, folder / "input.pt")
    return model(ids, mask, pixels, grid, IMAGE_ID, REWARD_ID).numpy()


@torch.no_grad()
def _image_reward(folder: Path, packages: str) -> np.ndarray:
    """The weights are made by the authors' code, under their own names."""
    ids, mask = torch.randint(5, VOCABULARY, (ROWS, LENGTH)), torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[1, 30:] = 0
    pixels = torch.randn(ROWS, 3, SIDE, SIDE)
    torch.save({"ids": ids, "mask": mask, "pixels": pixels}, folder / "input.pt")
    _official("imagereward-weights", folder, packages)
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-6,
    }
    text = {**BERT, "encoder_hidden_size": WIDTH, "hidden_act": "gelu"}
    model = ImageReward(BlipConfig(text_config=text, vision_config=vision)).eval()
    model.load_state_dict(from_published(torch.load(folder / "weights.pt")))
    return model(ids, mask, pixels).numpy()


@torch.no_grad()
def _vqascore(folder: Path) -> np.ndarray:
    """Our scorer tokenizes and resizes; the authors' model gets the same token ids and pixels."""
    save_tiny_clip(folder / "clip")  # for its tokenizer and image processor
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "clip")
    end = ("<|endoftext|>", tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <|endoftext|>", special_tokens=[end])
    tokenizer.save_pretrained(folder / "clip")
    model, tower = ClipFlanT5(T5Config(**T5)), CLIPVisionModel(CLIPVisionConfig(**TOWER))
    for parameter in (*model.parameters(), *tower.parameters()):
        parameter.add_(0.1 * torch.randn_like(parameter))
    scorer = VqaScorer(model, tower, str(folder / "clip"), str(folder / "clip"), "cpu")
    images = list(np.random.default_rng(0).integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8))
    prompts = ["a red circle", "a red circle left of a blue square", "a blue square above a green triangle"]

    def ids(text: str) -> torch.Tensor:
        return torch.tensor(tokenizer(text)["input_ids"])

    torch.save(
        {
            "weights": model.state_dict(),
            "tower": tower.state_dict(),
            "rows": [(ids(BEFORE), ids(AFTER.format(prompt=prompt))) for prompt in prompts],
            "answer": ids("Yes"),
            "pixels": CLIPImageProcessorPil.from_pretrained(folder / "clip")(images, return_tensors="pt")[
                "pixel_values"
            ],
        },
        folder / "input.pt",
    )
    return scorer.score_batch(images, prompts)


if __name__ == "__main__":
    main(*sys.argv[1:])
