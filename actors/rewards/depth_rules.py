"""A rule-based reward in three dimensions: GroundingDINO finds the objects, Depth-Anything-V2 says which is nearer.

It knows the relations of `depth_order`. As with `detector`, every relation of an object that is missed counts as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoTokenizer,
    DepthAnythingForDepthEstimation,
    DPTImageProcessorPil,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
)

from actors.reward_input import InputError
from actors.rewards.batched import BatchedReward
from actors.rewards.depth_order import Margins, relations_of
from actors.rewards.directions import Box
from actors.rewards.scorers import DEPTH_ANYTHING, GROUNDING_DINO
from actors.types import Relation, objects_of
from conf.rewards import RewardTerm


class DepthRulesReward(BatchedReward):
    """Scores images from 0 to 1: the fraction of a prompt's objects that are found and relations that hold."""

    def __init__(self, term: RewardTerm, device: str, relations: Mapping[str, tuple[Relation, ...]]) -> None:
        """`relations`: prompt text -> its relations, in the words of DEPTH_RELATIONS, for every prompt to be scored."""
        self.batch_images, self._relations, self._device = term.batch_images, relations, device
        self._threshold = term.threshold
        self._margins = Margins(term.margin, term.depth_margin, term.size_margin)
        model, depth = term.model or GROUNDING_DINO, term.depth_model or DEPTH_ANYTHING
        # Any: the types of their calls are incomplete
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        self._detector_images: Any = GroundingDinoImageProcessorPil.from_pretrained(model)
        self._depth_images: Any = DPTImageProcessorPil.from_pretrained(depth)
        detector = GroundingDinoForObjectDetection.from_pretrained(model)
        self._detector: Any = cast(nn.Module, detector).to(device).eval()
        self._depth: Any = cast(nn.Module, DepthAnythingForDepthEstimation.from_pretrained(depth)).to(device).eval()

    def score_batch(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """See BatchedReward. Raises InputError for a prompt without known relations."""
        for prompt in prompts:
            if prompt not in self._relations:
                raise InputError(
                    f"no relations are known for the prompt {prompt!r}: it is not one of the run's prompts"
                )
        relations = [self._relations[prompt] for prompt in prompts]
        found = self.find(images, [objects_of(each) for each in relations])
        maps = self.nearness(images)
        triples = zip(relations, found, maps, strict=True)
        return np.array([satisfied(each, boxes, near, self._margins) for each, boxes, near in triples], np.float32)

    @torch.inference_mode()
    def nearness(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A map of nearness of each image  # [h, w] float32. Larger is nearer."""
        pixels = self._depth_images([Image.fromarray(image) for image in images], return_tensors="pt").to(self._device)
        return list(self._depth(pixels["pixel_values"]).predicted_depth.float().cpu().numpy())

    @torch.inference_mode()
    def find(self, images: Sequence[np.ndarray], names: Sequence[Sequence[str]]) -> list[dict[str, Box]]:
        """The most confident box of each of an image's `names`; a name without a box above the threshold is absent.

        The confidence of a box for a name is the mean over the name's tokens, so that words which two names share do
        not decide. All images of a call have one size, so none is padded.
        """
        texts = [" ".join(f"{name.lower()} ." for name in each) for each in names]
        rows = self._tokenizer(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")
        offsets = rows.pop("offset_mapping")
        pixels = self._detector_images([Image.fromarray(image) for image in images], return_tensors="pt")
        outputs = self._detector(**rows.to(self._device), **pixels.to(self._device))
        confidence = outputs.logits.float().sigmoid().cpu()  # [B, boxes, tokens]
        boxes = outputs.pred_boxes.float().cpu()  # [B, boxes, 4]
        parts = zip(confidence, boxes, offsets, names, strict=True)
        return [self._best_boxes(one, places, starts, each) for one, places, starts, each in parts]

    def _best_boxes(
        self, confidence: torch.Tensor, boxes: torch.Tensor, offsets: torch.Tensor, names: Sequence[str]
    ) -> dict[str, Box]:
        """The best box of each name. `confidence` [boxes, tokens], `boxes` [boxes, 4], `offsets` [tokens, 2]."""
        found: dict[str, Box] = {}
        start = 0
        for name in names:
            end = start + len(name)
            tokens = (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
            start = end + len(" . ")
            scores = confidence[:, : len(tokens)][:, tokens].mean(1)
            best = int(scores.argmax())
            if scores[best] > self._threshold:
                x, y, width, height = boxes[best].tolist()
                found[name] = (x, y, width, height)
        return found


def satisfied(relations: Sequence[Relation], found: Mapping[str, Box], nearness: np.ndarray, margins: Margins) -> float:
    """The fraction of a prompt's objects that were found and of its relations that hold; each counts one."""
    objects = objects_of(relations)
    right = [
        relation.subject in found
        and relation.object in found
        and relation.relation in relations_of(found[relation.subject], found[relation.object], nearness, margins)
        for relation in relations
    ]
    return (sum(name in found for name in objects) + sum(right)) / (len(objects) + len(right))
