"""What a benchmark command works on: the benchmarks of the settings, their items, and the sides that are judged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from conf import SettingsError, UserError
from conf.benchmark import BENCHMARKS
from conf.endpoints import ChatSettings
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.benchmark.catalogue import find_benchmark
from pipelines.benchmark.items import Benchmark, BenchmarkItem, Wording
from pipelines.benchmark.layout import image_name
from pipelines.common.paths import run_paths
from pipelines.common.seeds import sample_seed

SIDES = ("base", "policy")
"""The model before training, and the model after training."""


@dataclass(frozen=True)
class Work:
    """One benchmark of a command: what it is, where its published files are, and the items that are used."""

    benchmark: Benchmark
    folder: Path
    items: tuple[BenchmarkItem, ...]

    @property
    def name(self) -> str:
        """Name of the benchmark in settings and folders."""
        return self.benchmark.name

    @cached_property
    def wording(self) -> Wording:
        """The text of a judge's call. Read once, because it may be parsed from the authors' script."""
        return self.benchmark.wording(self.folder)

    @property
    def images(self) -> int:
        """Number of images of one side."""
        return sum(item.images for item in self.items)


def data_folder(settings: Settings) -> Path:
    """The folder with the published files. Raises SettingsError if none is set for a model that needs one."""
    if settings.benchmark.data:
        return Path(settings.benchmark.data).absolute()
    if settings.flux.model != EMBEDDED:
        raise SettingsError(
            f"benchmark.data must name a folder for the benchmarks' files with flux.model={settings.flux.model}, got "
            "none: set it, and run `spatialt2i benchmark fetch`"
        )
    return run_paths(settings).benchmark_data


def load_work(settings: Settings) -> list[Work]:
    """Reads the benchmarks that `benchmark.names` lists, as far as `part`, `max_prompts` and `images_per_prompt` say.

    In the scenes world without `benchmark.data` it writes the held-out prompts in their formats first. Raises UserError
    for files that are missing or cannot be read.
    """
    cfg, root = settings.benchmark, data_folder(settings)
    if not cfg.names:
        raise SettingsError(f"benchmark.names must name a benchmark ({', '.join(BENCHMARKS)}), got none")
    if not cfg.data:
        write_scenes(settings, root)
    return [_load(settings, name, root) for name in cfg.names]


def write_scenes(settings: Settings, root: Path) -> None:
    """Writes the held-out prompts of the scenes world as the files of all benchmarks, below the folder `root`."""
    from pipelines.evaluation.cases import draw_cases
    from pipelines.scenes.benchmark import write_benchmarks

    prompts = {case.prompt.text: case.prompt for case in draw_cases(settings)}
    write_benchmarks(root, list(prompts.values()))


def _load(settings: Settings, name: str, root: Path) -> Work:
    cfg = settings.benchmark
    benchmark = find_benchmark(name, cfg.tiif_set, settings.spatialgeneval_judge.shuffle)
    folder = root / benchmark.folder
    fatal = [problem.text for problem in benchmark.check(folder) if problem.fatal]
    if fatal:
        raise UserError(f"benchmark {name}: {fatal[0]}")
    drawable = [item for item in benchmark.load(folder, cfg.part) if item.prompt.strip()]
    items = tuple(drawable[: cfg.max_prompts or None])
    if not items:
        raise UserError(f"benchmark {name} has no prompts in {folder}: check benchmark.data and benchmark.part")
    if cfg.images_per_prompt:
        items = tuple(replace(item, images=cfg.images_per_prompt) for item in items)
    return Work(benchmark, folder, items)


def sides_of(settings: Settings) -> tuple[str, ...]:
    """The sides that `benchmark.sides` names."""
    return SIDES if settings.benchmark.sides == "both" else (settings.benchmark.sides,)


def image_seed(settings: Settings, name: str, item: str, image: int) -> int:
    """The seed of an image. It depends on the benchmark and the item, and not on which other items are used."""
    number = int(hashlib.sha256(f"{name}/{item}".encode()).hexdigest()[:8], 16)
    return sample_seed(settings.benchmark.seed, 0, number, image)


def files_of(work: Work) -> Sequence[tuple[BenchmarkItem, int, str]]:
    """Item, number and file name of every image of one side, in the order of the items."""
    return [(item, image, image_name(item.id, image)) for item in work.items for image in range(item.images)]


def judge_settings(settings: Settings, name: str) -> ChatSettings:
    """The section of the judge of a benchmark that asks a chat model."""
    sections: Mapping[str, ChatSettings] = {
        "dpg": settings.dpg_judge,
        "tiif": settings.tiif_judge,
        "unigenbench": settings.unigenbench_judge,
        "unigenbench_long": settings.unigenbench_judge,
        "spatialgeneval": settings.spatialgeneval_judge,
        "geneval2": settings.geneval2_judge,
    }
    return sections[name]
