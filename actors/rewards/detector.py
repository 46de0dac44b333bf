"""A rule-based reward as in GenEval: an object detector finds the objects, and their boxes decide the relations.

It is the paper's baseline. It knows four directions only, and every relation of an object that it misses counts as
wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import Owlv2ForObjectDetection, Owlv2Processor

from actors.dtypes import DTYPES
from actors.reward_input import InputError, check_inputs
from actors.rewards.directions import DIRECTIONS, Box, directions
from actors.types import Relation, Scores, objects_of
from actors.worker_setup import init_worker
from conf.detector import DetectorSettings

__all__ = ["DIRECTIONS", "Box", "DetectorReward", "directions", "satisfied_fraction"]


def satisfied_fraction(relations: Sequence[Relation], found: Mapping[str, Box], margin: float) -> float:
    """The fraction of a prompt's objects that were found and of its relations that hold; each counts one."""
    objects = objects_of(relations)
    satisfied = [
        relation.subject in found
        and relation.object in found
        and relation.relation in directions(found[relation.subject], found[relation.object], margin)
        for relation in relations
    ]
    return (sum(name in found for name in objects) + sum(satisfied)) / (len(objects) + len(satisfied))


class DetectorReward:
    """Scores images from 0 to 1 under prompts whose relations are known."""

    def __init__(self, settings: DetectorSettings, relations: Mapping[str, tuple[Relation, ...]]) -> None:
        """`relations`: prompt text -> its relations, in the words of DIRECTIONS, for every prompt to be scored."""
        self._settings, self._relations = settings, relations
        self._device = init_worker(settings.threads, settings.gpus)
        # Any: the type of its call is incomplete
        self._processor: Any = Owlv2Processor.from_pretrained(settings.model, trust_remote_code=False)
        model = Owlv2ForObjectDetection.from_pretrained(settings.model, dtype=DTYPES[settings.dtype])
        self._model: Any = cast(nn.Module, model).to(self._device).eval()

    def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """Scores image i under prompt i. `images`: uint8 [B, H, W, 3]. Sigma is 0.

        Raises InputError for a prompt without known relations, and what `check_inputs` raises.
        """
        check_inputs(images, prompts)
        for prompt in prompts:
            if prompt not in self._relations:
                raise InputError(
                    f"no relations are known for the prompt {prompt!r}: it is not in the run's training or held-out "
                    "prompts"
                )
        batch = self._settings.batch_images
        fractions: list[float] = []
        for start in range(0, len(prompts), batch):
            relations = [self._relations[prompt] for prompt in prompts[start : start + batch]]
            found = self.find(images[start : start + batch], [objects_of(each) for each in relations])
            for prompt_relations, boxes in zip(relations, found, strict=True):
                fractions.append(satisfied_fraction(prompt_relations, boxes, self._settings.margin))
        return Scores.deterministic(fractions)

    @torch.inference_mode()
    def find(self, images: np.ndarray | Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[dict[str, Box]]:
        """The most confident box of each of an image's `names`; a name without a box above the threshold is absent.

        As in OWLv2's own post-processing, a box belongs to the name with the highest confidence only.
        """
        queries = [[f"a photo of a {name}" for name in each] for each in names]
        inputs = self._processor(text=queries, images=list(images), return_tensors="pt", truncation=True)
        inputs = inputs.to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        outputs = self._model(**inputs)
        return [
            self._best_boxes(logits[:, : len(each)].float().sigmoid(), boxes.float(), each)  # without padded queries
            for logits, boxes, each in zip(outputs.logits, outputs.pred_boxes, names, strict=True)
        ]

    def _best_boxes(self, confidence: torch.Tensor, boxes: torch.Tensor, names: Sequence[str]) -> dict[str, Box]:
        """The best box of each name. `confidence` [boxes, names], `boxes` [boxes, 4]."""
        name_of_box = confidence.argmax(dim=1)
        found: dict[str, Box] = {}
        for number, name in enumerate(names):
            candidates = torch.where(name_of_box == number, confidence[:, number], 0.0)
            best = int(candidates.argmax())
            if candidates[best] > self._settings.threshold:
                x, y, width, height = boxes[best].tolist()
                found[name] = (x, y, width, height)
        return found
