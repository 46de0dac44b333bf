"""`benchmark draw`: images of the items by base and policy, from the same noise. An interrupted call continues."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from actors.files import write_file
from actors.policy.lora import read_lora
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import sample
from actors.worker_setup import actor_options, init_worker
from conf.settings import Settings
from pipelines.benchmark.image_record import image_record, open_image_folder, sampling_size
from pipelines.benchmark.work import Work, files_of, image_seed, sides_of
from pipelines.common.images import encode_png
from pipelines.common.paths import RunPaths, run_paths
from pipelines.common.progress_line import Pace, ProgressLine, counted
from pipelines.common.worker_log import WorkCounter
from pipelines.policy.base_model_check import check_text_lengths
from pipelines.policy.export import provide_export
from pipelines.policy.fingerprint import flux_location

DRAWN = "drawn"
"""Name of the count of images that are saved."""
BLOCKS_PER_ACTOR = 32
"""Blocks of the dataset for each actor. A block is generated again if its actor fails."""


@dataclass(frozen=True)
class ImageTask:
    """One image to generate."""

    file: str  # path of its PNG file
    prompt: str
    seed: int


@dataclass(frozen=True)
class SideBatch:
    """Images that are sampled together by one side."""

    side: str
    tasks: tuple[ImageTask, ...]


@dataclass(frozen=True)
class DrawResult:
    """How many images there are, and how many of them were generated now."""

    images: int
    drawn: int

    def __str__(self) -> str:
        return f"{self.images} images, {self.drawn} of them generated now"


class DrawImages:
    """A Ray Data actor with one policy. It generates batches of images, and saves each image by an atomic write."""

    def __init__(self, model: str, paths: RunPaths, tuned: bool, settings: Settings, counter: WorkCounter) -> None:
        """`model`: the base, a folder or a name on the hub. `tuned`: whether images of the policy are wanted, too."""
        size = sampling_size(settings)
        device = init_worker(settings.policy.samplers.threads, settings.policy.samplers.gpus)
        flux = replace(settings.flux, height=size.height, width=size.width)
        self._policy = load_policy(model, flux, device)
        if tuned:
            self._policy.load_lora(read_lora(paths.export, settings.flux))
        self._plan = SamplingPlan(denoise_steps=size.denoise_steps, max_batch=settings.benchmark.batch)
        self._counter = counter

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Column `batch` [B]: pickled SideBatch. Returns it, once the PNG files are written."""
        for packed in rows["batch"]:
            batch: SideBatch = pickle.loads(packed)
            conditioning = self._policy.encode([task.prompt for task in batch.tasks])
            seeds = [task.seed for task in batch.tasks]
            with nullcontext() if batch.side == "policy" else self._policy.base():
                latents = sample(self._policy, conditioning, seeds, self._plan).latents
                images = self._policy.decode(latents)
            for task, image in zip(batch.tasks, images, strict=True):
                write_file(task.file, encode_png(image))
            self._counter.add(DRAWN, len(batch.tasks))
        return rows


def draw(settings: Settings, work: Sequence[Work], log: Callable[[str], None] = print) -> DrawResult:
    """Generates the images that are missing, of all benchmarks and sides, into the run directory.

    Images are sampled in fixed batches; a batch with a missing image is sampled again as a whole, so that an
    interruption does not change a bit. Ray must be initialised. Raises UserError if there is no such policy version,
    SettingsError if a prompt is too long for `flux.max_sequence_length`.
    """
    for each in work:
        check_text_lengths(settings, f"benchmark {each.name}", [item.prompt for item in each.items])
    sides = sides_of(settings)
    paths = provide_export(settings) if "policy" in sides else run_paths(settings)
    missing = [batch for each in work for side in sides for batch in _missing(settings, each, side, paths, log)]
    total = sum(each.images for each in work) * len(sides)
    to_draw = sum(len(batch.tasks) for batch in missing)
    if missing:
        _generate(settings, paths, missing, log)
    return DrawResult(total, to_draw)


def plan_batches(settings: Settings, work: Work, side: str, paths: RunPaths) -> list[SideBatch]:
    """All images of a side in batches of `benchmark.batch`, in the order of the items."""
    folder, size = paths.benchmark_images(work.name, side), settings.benchmark.batch
    tasks = [
        ImageTask(str(folder / file), item.prompt, image_seed(settings, work.name, item.id, image))
        for item, image, file in files_of(work)
    ]
    return [SideBatch(side, tuple(tasks[i : i + size])) for i in range(0, len(tasks), size)]


def _missing(settings: Settings, work: Work, side: str, paths: RunPaths, log: Callable[[str], None]) -> list[SideBatch]:
    """The batches of which an image is missing, or was made for another prompt."""
    folder = paths.benchmark_images(work.name, side)
    open_image_folder(folder, image_record(settings, side, paths, work.items), log)
    present = {str(path) for path in folder.glob("*.png")}
    batches = plan_batches(settings, work, side, paths)
    return [batch for batch in batches if not all(task.file in present for task in batch.tasks)]


def _generate(settings: Settings, paths: RunPaths, batches: Sequence[SideBatch], log: Callable[[str], None]) -> None:
    """Runs the batches on a pool of actors, with a line of progress."""
    samplers, counter, pace = settings.policy.samplers, WorkCounter.start(), Pace()
    total = sum(len(batch.tasks) for batch in batches)
    tuned = any(batch.side == "policy" for batch in batches)
    actors = min(settings.policy.sampler_count, len(batches))
    blocks = min(len(batches), BLOCKS_PER_ACTOR * actors)
    rows: Any = ray.data.from_items([{"batch": pickle.dumps(batch)} for batch in batches], override_num_blocks=blocks)
    drawn = rows.map_batches(
        DrawImages,
        fn_constructor_args=(flux_location(settings), paths, tuned, settings, counter),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        **actor_options(samplers.threads, samplers.cpus, samplers.gpus),
    )
    drawn.context.enable_progress_bars = False

    def state() -> str:
        done = min(counter.read().get(DRAWN, 0), total)
        return counted(done, total, "images", pace) if done else ""

    with ProgressLine("benchmark draw", log) as progress:
        progress.phase("loading the models")
        progress.follow(state)
        for _ in drawn.iter_rows():
            pass
        progress.finish(f"{total}/{total} images")
