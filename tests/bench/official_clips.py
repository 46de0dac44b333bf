"""Our side of official_baselines.py for CLIP score, PickScore and HPSv2.1: image files and prompts in, scores out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from actors.images import decode_image
from actors.rewards.batched import BatchedReward
from actors.rewards.clip import from_open_clip, open_clip_score, open_hpsv2, open_pickscore
from actors.rewards.scorers import ScorerContext
from tests.bench.official_sizes import CLIP

Official = Callable[[str, Path], None]
"""Runs a part of the authors' side, by its name, in a folder."""

SIZES = ((224, 224), (512, 512), (211, 97), (333, 500), (640, 363), (30, 231), (227, 224), (1024, 229))
"""Width and height of each image."""
PROMPTS = (
    "a red circle left of a blue square",
    "A  Photo of\ta CAT & a dog's \n ball, 12 cm — naïve café",
    "“curly” ‘quotes’ and the dog’s ﬁne ＡＢＣ １２",
    "black &amp; white, 2 &lt; 3, &amp;quot;twice&amp;quot;",
    " and above a green triangle".join(["a red circle"] * 20),
    "une étoile à gauche d'un carré, 星の絵, 🙂🙂",
    "a" * 300,
    "x",
)
"""The fifth and the seventh are longer than 77 tokens."""


def clip_score(folder: Path, official: Official) -> np.ndarray:
    """2.5 x max(cosine, 0) of each image under its prompt."""
    official("clip-weights", folder)
    _save_clip(folder, "quick_gelu", torch.load(folder / "weights.pt"))
    return _scores(open_clip_score, folder)


def pickscore(folder: Path, official: Official) -> np.ndarray:
    """Its weights are those of the class of transformers, in which it is published."""
    official("clip-weights", folder)
    _save_clip(folder, "gelu", torch.load(folder / "weights.pt"))
    return _scores(open_pickscore, folder)


def hpsv2(folder: Path, official: Official) -> np.ndarray:
    """Its weights are made by the authors' code, in the form of the published file."""
    official("clip-weights", folder)
    official("hpsv2-weights", folder)
    _save_clip(folder, "gelu")
    return _scores(open_hpsv2, folder)


def image_files(folder: Path) -> list[str]:
    """PNG files of SIZES, every other one in grey, with structure at several scales."""
    random, files = np.random.default_rng(0), list[str]()
    for number, (width, height) in enumerate(SIZES):
        coarse = random.integers(0, 256, (7, 5, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST), np.int16)
        noisy = (image + random.integers(-60, 61, image.shape)).clip(0, 255).astype(np.uint8)
        file = folder / f"{number}.png"
        Image.fromarray(noisy).convert("L" if number % 2 else "RGB").save(file)
        files.append(str(file))
    return files


def _scores(opener: Callable[[ScorerContext], BatchedReward], folder: Path) -> np.ndarray:
    files = image_files(folder)
    torch.save({"files": files, "prompts": PROMPTS}, folder / "input.pt")
    images = [decode_image(Path(file).read_bytes()) for file in files]
    return np.array(opener(ScorerContext(str(folder), "cpu", 3)).score(images, PROMPTS).mu)


def _save_clip(folder: Path, activation: str, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Configuration, processor and tokenizer as on the hub, and weights under the names of transformers."""
    width, layers = CLIP["width"], CLIP["layers"]
    tower = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "hidden_act": activation,
    }
    # the ids of begin and end are those of the published files, whose pooling takes the largest id
    text = {"vocab_size": CLIP["vocabulary"], "max_position_embeddings": CLIP["length"], "bos_token_id": 0}
    config = CLIPConfig(
        text_config={**tower, **text, "eos_token_id": 2},
        vision_config={**tower, "image_size": CLIP["side"], "patch_size": CLIP["patch"]},
        projection_dim=CLIP["embed"],
    )
    model = CLIPModel(config)
    if weights:
        missing, unknown = model.load_state_dict(from_open_clip(weights), strict=False)
        assert not unknown and all(name.endswith("position_ids") for name in missing), (missing, unknown)
    model.save_pretrained(folder)
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    tokenizer = {**names, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    processor = {
        "crop_size": CLIP["side"],
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": CLIP["side"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
