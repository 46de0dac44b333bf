"""The rewards beside SpatialScore in a plan, from their published sizes.

Their operations are not counted on the models: two operations for each parameter and each token that it reads. Beside
large matrix products this leaves out attention (a tenth at these lengths) and reading the images, which CPUs do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from conf import Settings
from conf.detector import DetectorSettings
from conf.rules import DTYPE_BYTES
from pipelines.planning.fleet import placed_rewards
from pipelines.planning.gpus import GIB, MATMUL_EFFICIENCY, TRAFFIC_EFFICIENCY, GpuType
from pipelines.planning.reward_work import TEXT_TOKENS

ANSWER_TOKENS = 100
"""Tokens of an answer of UnifiedReward: a sentence or two and its verdict."""
_PATCH = 28
"""Side in pixels of an image token of Qwen2-VL and Qwen2.5-VL."""
_INSTRUCTION = 256
"""Tokens of the questions of HPSv3 and UnifiedReward, without the prompt."""


@dataclass(frozen=True)
class Tower:
    """One part of a model."""

    billions: float
    """Parameters."""
    tokens: float
    """That it reads of one image and its prompt."""


@dataclass(frozen=True)
class PublishedModel:
    """A reward model as its authors publish it."""

    towers: tuple[Tower, ...]
    dtype: Literal["bfloat16", "float32"]
    questions: int = 1
    """Forward passes of an image: UnifiedReward compares it with every other image of its group."""
    answer_tokens: int = 0
    """That are generated one by one for each question."""

    @property
    def billions(self) -> float:
        """Parameters."""
        return sum(tower.billions for tower in self.towers)

    @property
    def gib(self) -> float:
        """Of the weights."""
        return 1e9 * self.billions * DTYPE_BYTES[self.dtype] / GIB

    def image_seconds(self, gpu: GpuType, batch: int) -> float:
        """Seconds of one image on one GPU, with `batch` questions in a forward pass."""
        tflops = gpu.bf16_tflops if self.dtype == "bfloat16" else gpu.fp32_tflops
        read = sum(2e9 * tower.billions * tower.tokens for tower in self.towers) / (tflops * 1e12 * MATMUL_EFFICIENCY)
        weights = 1e9 * self.billions * DTYPE_BYTES[self.dtype] / (gpu.bandwidth_tb_s * 1e12 * TRAFFIC_EFFICIENCY)
        return self.questions * (read + (1 + self.answer_tokens) * weights / batch)


def published_model(kind: str, settings: Settings) -> PublishedModel | None:
    """The model of a reward of this kind; None if it has none here: a service, the exact checker, your own code.

    Sizes: the papers and model cards of CLIP, OpenCLIP, BLIP, FLAN-T5, Qwen2-VL, Swin, GroundingDINO, Depth Anything V2
    and OWLv2. Tokens: the published sizes of images and the numbers of patches that follow.
    """
    clip_h = PublishedModel((Tower(0.632, 257), Tower(0.354, 77)), "float32")
    pixels, group = settings.flux.height * settings.flux.width, settings.policy.group_size
    two_images = 2 * pixels / _PATCH**2
    return {
        "clip": PublishedModel((Tower(0.088, 50), Tower(0.063, 77)), "float32"),
        "pickscore": clip_h,
        "hpsv2": clip_h,
        "imagereward": PublishedModel((Tower(0.304, 197), Tower(0.142, 35)), "float32"),
        # the encoder reads image and prompt, the decoder "Yes" and its end
        "vqascore": PublishedModel((Tower(0.304, 577), Tower(4.8, 576 + TEXT_TOKENS), Tower(6.4, 2)), "bfloat16"),
        "hpsv3": PublishedModel((Tower(0.675, 1024), Tower(7.6, 256 + _INSTRUCTION + TEXT_TOKENS)), "bfloat16"),
        "unifiedreward": PublishedModel(
            (Tower(0.675, 4 * two_images), Tower(7.6, two_images + _INSTRUCTION + TEXT_TOKENS)),
            "bfloat16",
            group - 1,
            ANSWER_TOKENS,
        ),
        # at 800 x 800: the later stages of a Swin-B, the deformable encoder's four scales, BERT; ViT-S at 518 x 518
        "depth_rules": PublishedModel(
            (Tower(0.088, 2500), Tower(0.035, 13_294), Tower(0.11, 32), Tower(0.025, 1370)), "float32"
        ),
        # OWLv2 at 960 x 960
        "detector": PublishedModel((Tower(0.092, 3600), Tower(0.063, 64)), settings.detector.dtype),
    }.get(kind)


@dataclass(frozen=True)
class OtherReward:
    """One reward beside SpatialScore."""

    name: str
    kind: str
    trains: bool
    billions: float
    """Parameters."""
    min_replicas: int
    max_replicas: int
    gpus: float
    """GPUs of a replica."""
    weights_gib: float
    """A replica's weights. Activations come on top."""
    share_gib: float
    """Usable memory of the share of a GPU that a replica reserves; 0 on CPUs."""
    image_seconds: float
    """One image on one GPU; 0 on CPUs, for which nothing is predicted."""
    iteration_seconds: float
    """All images of an iteration, if it trains, else of an evaluation, on `max_replicas`."""


def other_rewards(settings: Settings, gpu: GpuType) -> Iterator[OtherReward]:
    """The rewards whose models have known sizes, without SpatialScore."""
    policy = settings.policy
    for name, place in placed_rewards(settings).items():
        term, model = settings.used_rewards()[name], _model(name, settings)
        if model is None:
            continue
        batch = max(1, place.batch_images // (2 if model.questions > 1 else 1))  # a question has two images
        seconds = model.image_seconds(gpu, batch) if place.gpus else 0.0
        images = policy.prompts_per_iteration * policy.group_size if term.trains else policy.evaluation.prompts
        yield OtherReward(
            name=name,
            kind=term.kind_of(name),
            trains=term.trains,
            billions=model.billions,
            min_replicas=place.min_replicas,
            max_replicas=place.max_replicas,
            gpus=place.gpus,
            weights_gib=model.gib,
            share_gib=gpu.usable_gib * min(place.gpus, 1.0),
            image_seconds=seconds,
            iteration_seconds=images * seconds / place.max_replicas,
        )


def uncounted(settings: Settings) -> list[str]:
    """Names of the rewards whose models are not known here: services, your own code, other weights."""
    return [name for name in placed_rewards(settings) if _model(name, settings) is None]


def weights_gib(name: str, settings: Settings) -> float:
    """The weights of a replica of a reward beside SpatialScore; 0 if they are not known here."""
    model = _model(name, settings)
    return model.gib if model else 0.0


def _model(name: str, settings: Settings) -> PublishedModel | None:
    """None also for weights that the settings name, whose size is not known."""
    term = settings.used_rewards()[name]
    kind = term.kind_of(name)
    own = bool(term.model or term.depth_model) or (
        kind == "detector" and settings.detector.model != DetectorSettings().model
    )
    return None if own else published_model(kind, settings)
