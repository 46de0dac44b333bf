"""Rules as a reward, as GenEval has them: a detector finds the objects, and how their boxes lie decides relations.

The paper's baseline. It sees four directions and nothing else, and what it does not find it cannot place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Owlv2ForObjectDetection, Owlv2Processor

from actors.policy.base import DTYPES
from actors.types import Relation, Scores, objects_of, require_texts
from actors.worker_setup import init_worker
from conf.detector import DetectorSettings

Box = tuple[float, float, float, float]
"""Centre x and y, width and height, as shares of the image's longer side; y grows downwards."""

DIRECTIONS = ("left of", "right of", "above", "below")
"""What boxes can tell."""


def directions(a: Box, b: Box, margin: float) -> set[str]:
    """Where `a` lies, seen from `b`: none, one or, on a diagonal, two of DIRECTIONS.

    GenEval's `relative_position` (arXiv 2310.11513): what the centres' offset along an axis exceeds `margin` times the
    sum of both sizes by must be more than half of the whole offset.
    """
    x, y = a[0] - b[0], a[1] - b[1]
    length = math.hypot(x, y)
    clear_x = abs(x) - margin * (a[2] + b[2])
    clear_y = abs(y) - margin * (a[3] + b[3])
    found = set()
    if clear_x > 0.5 * length:
        found.add("left of" if x < 0 else "right of")
    if clear_y > 0.5 * length:
        found.add("above" if y < 0 else "below")
    return found


def satisfied_fraction(relations: Sequence[Relation], found: Mapping[str, Box], margin: float) -> float:
    """The share of a prompt's objects that were found and of its relations that hold, each counting one."""
    objects = objects_of(relations)
    held = [
        relation.subject in found
        and relation.object in found
        and relation.relation in directions(found[relation.subject], found[relation.object], margin)
        for relation in relations
    ]
    return (sum(name in found for name in objects) + sum(held)) / (len(objects) + len(held))


class DetectorReplica:
    """Scores pictures of the prompts that it was told about, from 0 to 1."""

    def __init__(self, settings: DetectorSettings, relations: Mapping[str, tuple[Relation, ...]]) -> None:
        """`relations`: of every prompt that will be asked about, by its text, in the words of DIRECTIONS."""
        self._settings, self._relations = settings, relations
        self._device = init_worker(settings.threads, settings.gpus)
        self._processor: Any = Owlv2Processor.from_pretrained(settings.model)  # its call is typed as keywords unpacked
        model = Owlv2ForObjectDetection.from_pretrained(settings.model, dtype=DTYPES[settings.dtype])
        self._model = model.to(self._device).eval()  # type: ignore[arg-type]

    def score(self, images: np.ndarray | Sequence[np.ndarray], texts: Sequence[str]) -> Scores:
        """Scores image i against text i. `images`: uint8 [B, H, W, 3]. Sigma is 0: a rule has none.

        Raises ValueError for a text whose relations it was not told.
        """
        require_texts(images, texts)
        for text in texts:
            if text not in self._relations:
                raise ValueError(f"the detector was told no relations of {text!r}: it is none of the run's prompts")
        rows = self._settings.batch_images
        shares: list[float] = []
        for start in range(0, len(texts), rows):
            relations = [self._relations[text] for text in texts[start : start + rows]]
            found = self.find(images[start : start + rows], [objects_of(each) for each in relations])
            shares += [satisfied_fraction(*pair, self._settings.margin) for pair in zip(relations, found, strict=True)]
        return Scores.deterministic(shares)

    @torch.inference_mode()
    def find(self, images: np.ndarray | Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[dict[str, Box]]:
        """The most confident box of each of an image's `names`, absent where none is above `detector.threshold`.

        As in OWLv2's own post-processing a box is of the one name that it fits best.
        """
        queries = [[f"a photo of a {name}" for name in each] for each in names]
        inputs = self._processor(text=queries, images=list(images), return_tensors="pt", truncation=True)
        inputs = inputs.to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        outputs = self._model(**inputs)
        return [
            self._best(logits[:, : len(each)].float().sigmoid(), boxes.float(), each)  # without the padding's queries
            for logits, boxes, each in zip(outputs.logits, outputs.pred_boxes, names, strict=True)
        ]

    def _best(self, confidence: torch.Tensor, boxes: torch.Tensor, names: Sequence[str]) -> dict[str, Box]:
        """`confidence` [boxes, names], `boxes` [boxes, 4]."""
        owner = confidence.argmax(dim=1)
        found: dict[str, Box] = {}
        for number, name in enumerate(names):
            own = torch.where(owner == number, confidence[:, number], 0.0)
            best = int(own.argmax())
            if own[best] > self._settings.threshold:
                x, y, width, height = boxes[best].tolist()
                found[name] = (x, y, width, height)
        return found
