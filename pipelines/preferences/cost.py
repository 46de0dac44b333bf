"""`preferences plan`: what a campaign of stage 1 will cost, before anything is spent.

Counts follow from the settings and from a yield: that of the run's own review if it has one, so that a pilot of some
hundred pairs replaces the assumption. What a call or an image costs is an estimate that is stated below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from conf.generators import DiffusersSettings, QwenImageSettings
from conf.preferences import PreferencesSettings
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.planning.gpus import GPU_TYPES, GpuType
from pipelines.preferences.extend import Count, count_pairs

PFLOP_OF_IMAGE = {"qwen_image": (7.0, 1024 * 1024), "hunyuan_image": (12.0, 2048 * 2048)}
"""Work of an image with 50 denoise steps and guidance, and its pixels, counted from the published configurations."""
EDIT_WORK = 2.2
"""Work of an edit, whose transformer reads the tokens of the winner too, relative to an image of the same size."""
EFFICIENCY = 0.45
"""Share of the peak that a diffusers pipeline reaches."""

TOKENS = {"writer": (900, 4000), "perturber": (700, 2000), "claim_judge": (1800, 120)}
"""Input and output tokens of a question: a reasoning model's thoughts, or an image of 1024 x 1024, are included."""
ATTEMPTS = 1.3
"""Questions for one usable prompt, and for one usable perturbation."""
CHECKED_TRIES = 2.0
"""Images of a side until one passes the check."""
BYTES_OF_PIXEL = {"png": 1.68, "jpeg95": 0.52, "webp90": 0.21}
"""Of a photograph, by the formats of preferences.keep."""
VOTES, CLAIMS, SECONDS_OF_CLAIM = 2.6, 24, 3.0
"""Votes on a pair with adjudication, claims of both images in a vote, and seconds for each."""


@dataclass(frozen=True)
class GeneratorCost:
    """What one generator draws."""

    name: str
    images: int
    megapixels: float  # of an image
    pflop: float  # of an image; 0 for a service
    gpus: int  # that its actors reserve

    def gpu_hours(self, gpu: GpuType) -> float:
        """Hours of one GPU for all images."""
        return self.images * self.pflop * 1e3 / (gpu.bf16_tflops * EFFICIENCY) / 3600


@dataclass(frozen=True)
class CampaignCost:
    """What a campaign needs."""

    target: int
    measured: Count | None  # the review that the yield comes from
    candidates: int
    generators: tuple[GeneratorCost, ...]
    calls: dict[str, int]
    """Service -> questions."""
    tokens: dict[str, tuple[int, int]]
    """Service -> input and output tokens."""
    prices: dict[str, float]
    """Service -> cost, in the currency of the prices."""
    disk_gb: float
    person_hours: float


def campaign_cost(settings: Settings) -> CampaignCost:
    """The cost of a run's stage 1, from its first call to the target of accepted pairs."""
    cfg = settings.preferences
    measured = count_pairs(settings) if run_paths(settings).preferences_manifest.exists() else None
    share = measured.measured_yield(cfg.expected_yield) if measured else cfg.expected_yield
    target = cfg.target or cfg.pairs
    candidates = math.ceil(target / share)
    images = round(2 * candidates * (CHECKED_TRIES if cfg.image_check == "judge" else 1.0))
    generators = tuple(_generators(settings, images))
    calls = {
        name: round(candidates * ATTEMPTS)
        for name, role in (("writer", cfg.writer), ("perturber", cfg.perturber))
        if role == "chat"
    }
    if cfg.image_check == "judge":
        calls["claim_judge"] = images
    tokens = {name: (TOKENS[name][0] * count, TOKENS[name][1] * count) for name, count in calls.items()}
    prices = {"writer": settings.writer, "perturber": settings.perturber, "claim_judge": settings.claim_judge}
    paid = {
        name: (tokens[name][0] * prices[name].price_in + tokens[name][1] * prices[name].price_out) / 1e6
        for name in calls
    }
    for one in generators:
        if one.name == "seedream":
            paid["seedream"] = one.images * settings.seedream.price_image
            calls["seedream"] = one.images
    disk_mb = 2 * candidates * sum(_megabytes(one, cfg) * one.images for one in generators) / max(images, 1)
    votes = target * VOTES if cfg.reviewer == "annotators" else 0.0
    return CampaignCost(
        target, measured, candidates, generators, calls, tokens, paid,
        disk_gb=disk_mb / 1e3,
        person_hours=votes * CLAIMS * SECONDS_OF_CLAIM / 3600,
    )  # fmt: skip


def _megabytes(generator: GeneratorCost, cfg: PreferencesSettings) -> float:
    """Of one image of a row, and of its master if masters are kept. Images are taken as square."""
    pixels = min(generator.megapixels, cfg.max_side**2 / 1e6) if cfg.max_side else generator.megapixels
    return pixels * BYTES_OF_PIXEL[cfg.keep] + (generator.megapixels * BYTES_OF_PIXEL["png"] if cfg.masters else 0.0)


def _generators(settings: Settings, images: int) -> Iterator[GeneratorCost]:
    """The generators that have a weight, with their share of the images."""
    weights = settings.preferences.generators
    total = weights.renderer + weights.qwen_image + weights.hunyuan_image + weights.seedream
    sections: tuple[tuple[str, float, DiffusersSettings], ...] = (
        ("qwen_image", weights.qwen_image, settings.qwen_image),
        ("hunyuan_image", weights.hunyuan_image, settings.hunyuan_image),
    )
    for name, weight, cfg in sections:
        if weight:
            work, native = PFLOP_OF_IMAGE[name]
            pixels = cfg.height * cfg.width
            passes = 0.5 if name == "qwen_image" and cfg.guidance <= 1 else 1.0  # without guidance one of two is left
            pflop = work * pixels / native * cfg.denoise_steps / 50 * passes
            if isinstance(cfg, QwenImageSettings) and cfg.edit_losers:
                edit_passes = 0.5 if cfg.edit_guidance <= 1 else 1.0
                edit = EDIT_WORK * work * pixels / native * cfg.edit_denoise_steps / 50 * edit_passes
                pflop = (pflop + edit) / 2
            gpus = round(cfg.actors * cfg.gpus)
            yield GeneratorCost(name, round(images * weight / total), pixels / 1e6, pflop, gpus)
    if weights.seedream:
        height, width = (int(side) for side in settings.seedream.size.split("x"))
        yield GeneratorCost("seedream", round(images * weights.seedream / total), height * width / 1e6, 0.0, 0)


def cost_report(cost: CampaignCost, settings: Settings) -> str:
    """The cost as text."""
    return "\n".join(_lines(cost, settings))


def _lines(cost: CampaignCost, settings: Settings) -> Iterator[str]:
    is_measured = cost.measured is not None and cost.measured.decided > 0
    source = f"measured: {cost.measured}" if is_measured else "assumed: preferences.expected_yield"
    share = f"yield {cost.target / cost.candidates:.0%}, {source}"
    yield f"{cost.target} accepted pairs need about {cost.candidates} candidates ({share})"
    yield ""
    for name, calls in cost.calls.items():
        tokens = cost.tokens.get(name)
        detail = f", {tokens[0] / 1e6:.0f} M tokens in, {tokens[1] / 1e6:.0f} M out" if tokens else " (one image each)"
        yield f"  {name:<14} {calls:>9} calls{detail}: {cost.prices[name]:,.0f}"
    total = f"{sum(cost.prices.values()):,.0f}"
    yield f"  {'cost':<14} {total:>9} in all, at the prices in the settings; budget.cost={settings.budget.cost:g}"
    yield ""
    for one in (one for one in cost.generators if one.pflop):
        hours = "  ".join(f"{name} {one.gpu_hours(gpu):,.0f}" for name, gpu in GPU_TYPES.items())
        yield f"  {one.name:<14} {one.images:>9} images of {one.pflop:.1f} PFLOP on {one.gpus} GPUs. GPU-hours: {hours}"
    yield f"  {'disk':<14} {cost.disk_gb:>9,.0f} GB of images"
    if cost.person_hours:
        work = f"{VOTES} votes a pair, {CLAIMS} claims, {SECONDS_OF_CLAIM:g} s each"
        yield f"  {'annotators':<14} {cost.person_hours:>9,.0f} hours: {work}"
    yield ""
    yield (
        f"Estimates: {ATTEMPTS} questions for a usable answer, {EFFICIENCY:.0%} of a GPU's peak, {CHECKED_TRIES:g} "
        "images of a side with a check. A pilot replaces the yield: build with preferences.pairs=400, review, and this "
        "command again."
    )
