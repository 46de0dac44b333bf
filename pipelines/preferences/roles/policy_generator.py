"""The base FLUX as a generator: several images of one prompt, of which the checker picks a better and a worse one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from actors.types import Conditioning
from pipelines.common.images import StoredImage
from pipelines.preferences.roles.base import ImagePair, PromptPair, ignore
from pipelines.preferences.roles.scenes import SceneWriter, num_satisfied, row_rng
from pipelines.scenes.checker import check

GENERATOR = "flux-base"
IMAGES = 3  # images of one prompt; the best and the worst make the pair
ATTEMPTS = 12  # prompts tried for a row until two images differ

_SAMPLE = 3  # stream of a row's random numbers that this generator uses


class PolicyGenerator:
    """Samples from the frozen base. If all images of a prompt are equally good, the row gets another prompt."""

    def __init__(
        self,
        policy: FluxPolicy,
        plans: Sequence[SamplingPlan],
        writer: SceneWriter,
        batch: int,
        count: Callable[[int], None] = ignore,
    ) -> None:
        """`plans` alternate from batch to batch, so that the pairs hold images with and without the training noise.

        `batch` is the number of prompts sampled at once. `count` receives the number of pairs of each batch.
        """
        self._policy = policy
        self._plans = plans
        self._writer = writer
        self._batch, self._count = batch, count

    def generate(self, prompts: Sequence[PromptPair]) -> list[ImagePair]:
        """Returns one pair for each prompt, in order. Raises ValueError if a row finds no two images that differ."""
        batches = [prompts[start : start + self._batch] for start in range(0, len(prompts), self._batch)]
        plans = [self._plans[i % len(self._plans)] for i in range(len(batches))]
        return [pair for batch, plan in zip(batches, plans, strict=True) for pair in self._generate_batch(batch, plan)]

    def _generate_batch(self, prompts: Sequence[PromptPair], plan: SamplingPlan) -> list[ImagePair]:
        done: dict[int, ImagePair] = {}
        missing = list(prompts)
        for attempt in range(ATTEMPTS):
            done |= {pair.prompts.spec.index: pair for pair in self._sample_pairs(missing, plan, attempt)}
            unpaired = [prompt.spec for prompt in missing if prompt.spec.index not in done]
            if not unpaired:
                self._count(len(prompts))
                return [done[prompt.spec.index] for prompt in prompts]
            missing = [self._writer.write_one(spec, attempt + 1) for spec in unpaired]
        raise ValueError(
            f"no two images differ in satisfied relations after {ATTEMPTS} prompts for row {missing[0].spec.index}: "
            "the base shows these prompts equally well; lower preferences.generated_fraction or pretrain it longer"
        )

    def _sample_pairs(self, prompts: Sequence[PromptPair], plan: SamplingPlan, attempt: int) -> list[ImagePair]:
        """The pairs of the prompts whose images differ in satisfied relations and objects."""
        seeds = [
            int(seed)
            for prompt in prompts
            for seed in row_rng(prompt.spec, _SAMPLE, attempt).integers(2**62, size=IMAGES)
        ]
        texts = [prompt.prompt.text for prompt in prompts]
        pixels = generate_with_base(self._policy, texts, seeds, plan)  # [B * IMAGES, H, W, 3]
        pairs: list[ImagePair] = []
        for i, prompt in enumerate(prompts):
            rows = slice(i * IMAGES, (i + 1) * IMAGES)
            pair = _best_and_worst(prompt, pixels[rows], seeds[rows])
            if pair:
                pairs.append(pair)
        return pairs


@torch.no_grad()
def generate_with_base(policy: FluxPolicy, texts: list[str], seeds: Sequence[int], plan: SamplingPlan) -> np.ndarray:
    """Samples images from the frozen base: uint8 [len(seeds), H, W, 3], the same number for each text, text by text.

    One forward pass encodes all texts. No learner replays these samples, so they need not be reproducible bit for bit
    in another batch.
    """
    length = policy.settings.max_sequence_length
    embeds, pooled, _ = policy.pipeline.encode_prompt(texts, texts, max_sequence_length=length)
    assert embeds is not None and pooled is not None
    encoded = [Conditioning(*row) for row in zip(embeds, pooled, strict=True)]
    with policy.base():
        samples = sample(policy, [row for row in encoded for _ in range(len(seeds) // len(texts))], seeds, plan)
    return policy.decode(samples.latents)


def _best_and_worst(prompt: PromptPair, pixels: np.ndarray, seeds: Sequence[int]) -> ImagePair | None:
    """The pair of the best and the worst image; None if all satisfy the prompt equally well."""
    satisfied = [num_satisfied(check(image, prompt.prompt.relations)) for image in pixels]
    best, worst = satisfied.index(max(satisfied)), satisfied.index(min(satisfied))
    if satisfied[best] == satisfied[worst]:
        return None
    return ImagePair(
        prompt,
        StoredImage.of(pixels[best], GENERATOR, seeds[best]),
        StoredImage.of(pixels[worst], GENERATOR, seeds[worst]),
    )
