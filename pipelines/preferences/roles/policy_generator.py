"""The base FLUX as a painter: several pictures of one prompt, of which the checker picks a better and a worse one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.types import Conditioning
from pipelines.common.images import StoredImage
from pipelines.preferences.roles.base import ImagePair, PromptPair
from pipelines.preferences.roles.scenes import SceneWriter, num_satisfied, task_rng
from pipelines.scenes.checker import check

GENERATOR = "flux-base"
IMAGES = 3  # of one prompt, of which the best and the worst make the pair
ATTEMPTS = 12  # prompts tried for a row until two pictures differ

_DRAW = 3  # this painter's stream of a task's seed


class PolicyGenerator:
    """Paints with the frozen base. Where all pictures of a prompt are equally good it writes the row another prompt."""

    def __init__(self, policy: FluxPolicy, plans: Sequence[SamplingPlan], writer: SceneWriter, batch: int) -> None:
        """`plans` take turns from batch to batch, so that pairs show pictures with and without the noise of training.

        `batch` is the number of prompts drawn at once.
        """
        self._policy = policy
        self._plans = plans
        self._writer = writer
        self._batch = batch

    def generate(self, drafts: Sequence[PromptPair]) -> list[ImagePair]:
        """One pair a draft, in order. Raises ValueError if a row finds no two pictures of different merit."""
        batches = [drafts[start : start + self._batch] for start in range(0, len(drafts), self._batch)]
        turns = [self._plans[i % len(self._plans)] for i in range(len(batches))]
        return [pair for batch, plan in zip(batches, turns, strict=True) for pair in self._generate_batch(batch, plan)]

    def _generate_batch(self, drafts: Sequence[PromptPair], plan: SamplingPlan) -> list[ImagePair]:
        painted: dict[int, ImagePair] = {}
        waiting = list(drafts)
        for attempt in range(ATTEMPTS):
            painted |= {pair.draft.task.index: pair for pair in self._draw(waiting, plan, attempt)}
            unpaired = [draft.task for draft in waiting if draft.task.index not in painted]
            if not unpaired:
                return [painted[draft.task.index] for draft in drafts]
            waiting = [self._writer.write_one(task, attempt + 1) for task in unpaired]
        raise ValueError(
            f"{ATTEMPTS} prompts for row {waiting[0].task.index} gave no two pictures of different merit: "
            "the base draws them equally well or badly; lower generated_fraction or pretrain it longer"
        )

    def _draw(self, drafts: Sequence[PromptPair], plan: SamplingPlan, attempt: int) -> list[ImagePair]:
        """The drafts whose pictures differ in merit, as pairs."""
        seeds = [int(seed) for d in drafts for seed in task_rng(d.task, _DRAW, attempt).integers(2**62, size=IMAGES)]
        pixels = generate_with_base(
            self._policy, [draft.prompt.text for draft in drafts], seeds, plan
        )  # [B * IMAGES, H, W, 3]
        pairs = []
        for i, draft in enumerate(drafts):
            own = slice(i * IMAGES, (i + 1) * IMAGES)
            pair = _best_and_worst(draft, pixels[own], seeds[own])
            if pair:
                pairs.append(pair)
        return pairs


@torch.no_grad()
def generate_with_base(policy: FluxPolicy, texts: list[str], seeds: Sequence[int], plan: SamplingPlan) -> np.ndarray:
    """The frozen base's pictures, uint8 [len(seeds), H, W, 3]: equally many of each text, one after the other.

    All texts are encoded in one forward: no learner replays these samples, so their last bits need not be reproducible.
    """
    length = policy.settings.max_sequence_length
    embeds, pooled, _ = policy.pipeline.encode_prompt(texts, texts, max_sequence_length=length)
    assert embeds is not None and pooled is not None
    encoded = [Conditioning(*row) for row in zip(embeds, pooled, strict=True)]
    with policy.base():
        samples = sample(policy, [row for row in encoded for _ in range(len(seeds) // len(texts))], seeds, plan)
    return policy.decode(samples.latents)


def _best_and_worst(draft: PromptPair, pixels: np.ndarray, seeds: Sequence[int]) -> ImagePair | None:
    merits = [num_satisfied(check(image, draft.prompt.relations)) for image in pixels]
    best, worst = merits.index(max(merits)), merits.index(min(merits))
    if merits[best] == merits[worst]:
        return None
    return ImagePair(
        draft,
        StoredImage.of(pixels[best], GENERATOR, seeds[best]),
        StoredImage.of(pixels[worst], GENERATOR, seeds[worst]),
    )
