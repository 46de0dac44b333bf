"""The authors' side of official_clips.py and official_unified.py: packages that work with a transformers of 2025."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import packaging.version
import torch
from PIL import Image

from tests.bench.official_side import replace_unused
from tests.bench.official_sizes import CLIP

Given = dict[str, Any]


def main(name: str, folder: str) -> None:
    """Writes scores.pt; the weights of `hpsv2`; or the weights of `clip` and the tokenizer of all three CLIPs."""
    torch.manual_seed(0)
    _load_torchvision()
    sides = {"pickscore": pickscore, "hpsv2": hpsv2, "clip": clip_score, "unifiedreward": unified_reward}
    weights = {"clip-weights": clip_weights, "hpsv2-weights": hpsv2_weights}
    with torch.no_grad():
        if name in weights:
            weights[name](Path(folder))
            return
        scores = sides[name](Path(folder), torch.load(Path(folder) / "input.pt", weights_only=False))
    torch.save(torch.as_tensor(scores), Path(folder) / "scores.pt")


def pickscore(folder: Path, given: Given) -> list[float]:
    """The lines of its README, with its processor."""
    from transformers import AutoModel, CLIPImageProcessor, CLIPProcessor
    from transformers import CLIPTokenizerFast as Tokenizer  # pyright: ignore

    images, tokenizer = CLIPImageProcessor.from_pretrained(folder), Tokenizer.from_pretrained(folder)
    processor: Any = CLIPProcessor(images, tokenizer)
    model: Any = AutoModel.from_pretrained(folder).eval()
    scores: list[float] = []
    for file, prompt in zip(given["files"], given["prompts"], strict=True):
        options: Any = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
        image = model.get_image_features(**processor(images=Image.open(file), **options))
        text = model.get_text_features(**processor(text=prompt, **options))
        cosine = torch.nn.functional.cosine_similarity(image, text)
        scores.append((model.logit_scale.exp() * cosine).item())
    return scores


def clip_score(folder: Path, given: Given) -> list[float]:
    """The package of OpenAI, and the steps of `clipscore.py` around it."""
    clip: Any = _openai_clip()
    transforms: Any = __import__("torchvision.transforms", fromlist=["transforms"])
    model = _small_openai_clip()
    model.load_state_dict(torch.load(folder / "weights.pt"))
    steps = transforms.Compose(
        [
            transforms.Resize(CLIP["side"], interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(CLIP["side"]),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    scores: list[float] = []
    for file, prompt in zip(given["files"], given["prompts"], strict=True):
        image = model.encode_image(steps(Image.open(file))[None])
        text = model.encode_text(clip.tokenize(f"A photo depicts {prompt}", truncate=True))
        scores.append(2.5 * max(torch.nn.functional.cosine_similarity(image, text).item(), 0.0))
    return scores


def clip_weights(folder: Path) -> None:
    """Random weights under OpenAI's names, and vocab.json and merges.txt of its tokenizer."""
    tokenizer = _openai_clip().clip._tokenizer
    (folder / "vocab.json").write_text(json.dumps(tokenizer.encoder))
    merges = "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    torch.save(_shaken(_small_openai_clip()).state_dict(), folder / "weights.pt")


def hpsv2(folder: Path, given: Given) -> list[float]:
    """`hpsv2.score`, with a small model in place of the published one."""
    img_score = _hpsv2()
    scores: list[float] = []
    for file, prompt in zip(given["files"], given["prompts"], strict=True):
        scores += img_score.score(file, prompt, cp=str(folder / "HPS_v2.1_compressed.pt"), hps_version="v2.1")
    return [float(score) for score in scores]


def hpsv2_weights(folder: Path) -> None:
    """Random weights in the form of the published file."""
    img_score = _hpsv2()
    img_score.initialize_model()
    state = _shaken(img_score.model_dict["model"]).state_dict()
    torch.save({"state_dict": state}, folder / "HPS_v2.1_compressed.pt")


def unified_reward(folder: Path, given: Given) -> torch.Tensor:
    """Logits of the first token of each answer, by the steps of `qwen_pair_rank_image_generation.py`."""
    from qwen_vl_utils import process_vision_info  # pyright: ignore
    from transformers import (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2TokenizerFast,  # pyright: ignore
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = Qwen2TokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    template = (folder / "chat_template.jinja").read_text()
    images = Qwen2VLImageProcessor.from_pretrained(folder)
    processor: Any = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=template)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, torch_dtype="auto").eval()
    rows: list[torch.Tensor] = []
    for (first, second), question in zip(given["files"], given["questions"], strict=True):
        content = [{"type": "image", "image": Image.open(file)} for file in (first, second)]
        system = {"role": "system", "content": "You are a helpful assistant."}  # that Qwen's own template adds
        messages = [system, {"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        shown, videos = process_vision_info(messages)
        inputs = processor(text=[text], images=shown, videos=videos, padding=True, return_tensors="pt")
        rows.append(model(**inputs).logits[0, -1])
    return torch.stack(rows)


def _shaken(model: Any) -> Any:
    """The model with noise on its weights, so that its scores depend more on image and prompt."""
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def _small_openai_clip() -> Any:
    from clip.model import CLIP as Model  # pyright: ignore

    width, layers = CLIP["width"], CLIP["layers"]
    text = (CLIP["length"], CLIP["vocabulary"], width, width // 64, layers)
    return Model(CLIP["embed"], CLIP["side"], layers, width, CLIP["patch"], *text).eval()


def _openai_clip() -> Any:
    resources: Any = types.ModuleType("pkg_resources")  # setuptools has none any more
    resources.packaging = types.SimpleNamespace(version=packaging.version)
    sys.modules["pkg_resources"] = resources
    import clip  # pyright: ignore

    return clip


def _hpsv2() -> Any:
    """The module of `hpsv2.score`. Its package lacks the vocabulary, which is that of OpenAI's."""
    replace_unused("clint", "turtle", "pandas", "webdataset", "braceexpand")
    vocabulary = "bpe_simple_vocab_16e6.txt.gz"
    packages = Path(sys.modules["torchvision"].__path__[0]).parent
    shutil.copy(packages / "clip" / vocabulary, packages / "hpsv2" / "src" / "open_clip" / vocabulary)
    from hpsv2 import img_score  # pyright: ignore
    from hpsv2.src.open_clip import factory  # pyright: ignore

    width, layers = CLIP["width"], CLIP["layers"]
    factory._MODEL_CONFIGS["ViT-H-14"] = {
        "embed_dim": CLIP["embed"],
        "vision_cfg": {
            "image_size": CLIP["side"],
            "layers": layers,
            "width": width,
            "head_width": 64,
            "patch_size": CLIP["patch"],
        },
        "text_cfg": {
            "context_length": CLIP["length"],
            "vocab_size": CLIP["vocabulary"],
            "width": width,
            "heads": width // 64,
            "layers": layers,
        },
    }
    made = img_score.create_model_and_transforms
    img_score.create_model_and_transforms = lambda name, _pretrained, **options: made(name, "", **options)
    return img_score


def _load_torchvision() -> None:
    """Imports it without its operators, which its package on PyPI has for CUDA only."""
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    __import__("torchvision")


if __name__ == "__main__":
    main(*sys.argv[1:3])
