"""GenEval's judge in transformers: Mask2Former finds instances, CLIP tells their colours. Neither Ray nor settings.

The published judge is mmdetection's Mask2Former with a Swin-S backbone, and OpenAI's CLIP ViT-L/14. Architecture and
post-processing are the same here, but the detector's weights are others, so its figures are of another scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, CLIPModel, Mask2FormerForUniversalSegmentation

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""The colours that GenEval distinguishes."""
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
"""What CLIP compares an object with; the embeddings of the three are averaged (`evaluation/evaluate_images.py`)."""
BACKGROUND = "#999"
"""Colour of the pixels around an object that CLIP is shown."""
MAX_INSTANCES = 100
"""Instances of an image at most, as mmdetection's `max_per_image`."""
MIN_SCORE = 0.05
"""Instances below this confidence are left out. GenEval counts none below 0.3."""


@dataclass(frozen=True)
class Instance:
    """One object that was found in an image."""

    name: str  # of its class
    score: float  # confidence
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    mask: np.ndarray = field(repr=False, compare=False)  # bool [H, W]


class InstanceDetector:
    """A Mask2Former for instance segmentation."""

    def __init__(self, model: str, device: torch.device) -> None:
        """`model`: directory or hub id."""
        self._device = device
        self._processor: Any = AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
        loaded: Any = Mask2FormerForUniversalSegmentation.from_pretrained(model)
        self._model = loaded.to(device).eval()
        self.names = [str(loaded.config.id2label[i]) for i in range(len(loaded.config.id2label))]

    @torch.inference_mode()
    def find(self, image: np.ndarray) -> list[Instance]:
        """The instances in an image, uint8 [H, W, 3], the most confident first."""
        inputs = self._processor(images=Image.fromarray(image), return_tensors="pt").to(self._device)
        outputs = self._model(**inputs)
        height, width = image.shape[:2]
        masks = torch.nn.functional.interpolate(
            outputs.masks_queries_logits.float(), size=(height, width), mode="bilinear", align_corners=False
        )[0]
        return instances_of(outputs.class_queries_logits[0].float(), masks, self.names)


def instances_of(classes: torch.Tensor, masks: torch.Tensor, names: Sequence[str]) -> list[Instance]:
    """The post-processing of mmdetection's `MaskFormerFusionHead.instance_postprocess`.

    classes: logits [Q, C + 1], the last of "no object"; masks: logits [Q, H, W]. The confidence is the probability of
    the class times the mean mask probability inside the mask. The box is the extent of the mask.
    """
    probabilities = classes.softmax(-1)[:, :-1]  # [Q, C]
    best, index = probabilities.flatten().topk(min(MAX_INSTANCES, probabilities.numel()))
    found: list[Instance] = []
    for probability, number in zip(best.tolist(), index.tolist(), strict=True):
        logits = masks[number // probabilities.shape[1]]
        inside = logits > 0
        if not bool(inside.any()):
            continue
        score = probability * float(logits.sigmoid()[inside].sum() / (inside.sum() + 1e-6))
        if score < MIN_SCORE:
            continue
        rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
        box = (float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1)
        name = names[int(number) % probabilities.shape[1]]
        found.append(Instance(name, score, box, inside.cpu().numpy()))
    return sorted(found, key=lambda instance: -instance.score)


class ColorClassifier:
    """A CLIP that tells the colour of an object, cut out of its image."""

    def __init__(self, model: str, device: torch.device) -> None:
        """`model`: directory or hub id."""
        self._device = device
        self._processor: Any = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        loaded: Any = CLIPModel.from_pretrained(model)
        self._model = loaded.to(device).eval()
        self._weights: dict[str, torch.Tensor] = {}  # class -> [10, D]

    @torch.inference_mode()
    def color(self, image: np.ndarray, instance: Instance) -> str:
        """The most similar of COLORS. image: uint8 [H, W, 3], the one that the instance was found in."""
        inputs = self._processor(images=cut_out(image, instance), return_tensors="pt").to(self._device)
        seen = _features(self._model.get_image_features(pixel_values=inputs["pixel_values"]))[0]
        return COLORS[int((self._colors_of(instance.name) @ seen).argmax())]

    def _colors_of(self, name: str) -> torch.Tensor:
        """The embeddings of the colours of a class [10, D]: the normalised mean over the templates."""
        if name not in self._weights:
            texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
            inputs = self._processor(text=texts, padding=True, return_tensors="pt").to(self._device)
            encoded = self._model.get_text_features(**inputs)
            mean = _features(encoded).unflatten(0, (len(COLORS), len(TEMPLATES))).mean(1)
            self._weights[name] = mean / mean.norm(dim=-1, keepdim=True)
        return self._weights[name]


def cut_out(image: np.ndarray, instance: Instance) -> Image.Image:
    """An object on a grey background, cropped to its box. `ImageCrops` of GenEval's script."""
    shown = Image.fromarray(image)
    blank = Image.new("RGB", shown.size, color=BACKGROUND)
    masked = Image.composite(shown, blank, Image.fromarray((instance.mask * 255).astype(np.uint8)))
    left, top, right, bottom = (round(value) for value in instance.box)
    return masked.crop((left, top, right, bottom))


def _features(output: Any) -> torch.Tensor:
    """The normalised embeddings, float32 [B, D]. Newer transformers wrap them in a model output."""
    vectors: torch.Tensor = (output if isinstance(output, torch.Tensor) else output.pooler_output).float()
    return vectors / vectors.norm(dim=-1, keepdim=True)
