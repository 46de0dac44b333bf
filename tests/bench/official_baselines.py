"""HPSv3, ImageReward and VQAScore against their authors' code, on the same random weights, images and prompts.

    pip install --no-deps --target FOLDER transformers==4.45.2 tokenizers==0.20.3 huggingface_hub==0.25.2 \\
        hpsv3==1.0.0 image-reward==1.5 t2v-metrics==1.2 timm==1.0.31 fairscale==0.4.13
    python -m tests.bench.official_baselines FOLDER

The authors' code needs an old transformers, so it runs in a process of its own, with the packages of FOLDER. It is
not part of the tests, which install nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

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
from tests.support.tiny_clip import save_tiny_clip

_SIDE_FILE = Path(__file__).with_name("official_side.py")


def main(packages: str) -> None:
    """Prints the largest difference of a score, and the largest score, of each model."""
    torch.manual_seed(0)
    for name, make in (("hpsv3", _hpsv3), ("imagereward", _image_reward), ("vqascore", _vqascore)):
        with tempfile.TemporaryDirectory() as folder:
            ours = make(Path(folder), packages)
            _official(name, Path(folder), packages)
            theirs = torch.load(Path(folder) / "scores.pt").numpy()
        print(f"{name:<12} {ROWS} scores up to {np.abs(ours).max():.3g}, differ by {np.abs(ours - theirs).max():.1e}")


def _official(name: str, folder: Path, packages: str) -> None:
    paths = f"{packages}:{Path(__file__).parents[2]}"
    subprocess.run([sys.executable, _SIDE_FILE, name, folder], check=True, env={**os.environ, "PYTHONPATH": paths})


@torch.no_grad()
def _hpsv3(folder: Path, _packages: str) -> np.ndarray:
    """Rows of different lengths, padded on the right, with an image each."""
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 2, 2]}
    ids_of = {"image_token_id": IMAGE_ID, "video_token_id": 7, "vision_start_token_id": 4, "vision_end_token_id": 5}
    config = Qwen2VLConfig(text_config={**QWEN_TEXT, "rope_parameters": rope}, vision_config=QWEN_VISION, **ids_of)
    model = Hpsv3(config, HPSV3_WIDTHS).eval()
    for layer in (0, 3, 5):
        model.rm_head[layer].weight.mul_(4.0)  # scores of the size of the published ones
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
def _vqascore(folder: Path, _packages: str) -> np.ndarray:
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
    main(sys.argv[1])
