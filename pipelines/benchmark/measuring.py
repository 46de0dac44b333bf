"""What else changed: other rewards and image statistics on the benchmarks' images, policy against base. The Ray side.

Each measure compares the two images of one item and number, so differences are paired. Chunks are saved; an
interrupted call continues.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util import ActorPool

from actors.files import delete_files, join, read_file, write_file
from actors.images import ImageError, decode_image
from actors.json_files import record_or_none
from actors.rewards.scorers import runtime_env_of
from actors.worker_setup import actor_options, init_worker
from conf.baselines import KIND_OF_SCORER, BaselinesSettings
from conf.settings import Settings
from pipelines.benchmark.other_measures import NAMES, STATISTICS, Measured, measures_of
from pipelines.benchmark.work import Work, files_of
from pipelines.common.fingerprints import digest_of
from pipelines.common.paths import RunPaths
from pipelines.common.progress_line import Pace, ProgressLine, counted
from pipelines.policy.image_statistics import image_statistics
from pipelines.reward.baselines.registry import open_scorer_baseline
from pipelines.reward.data import Pair

STATISTICS_ACTORS = 4
"""Actors that count pixels at once, at most."""
CHUNKS_OF_AN_ACTOR = 16
"""Chunks that are worth the start of another one."""


@dataclass(frozen=True)
class ImagePair:
    """Two images of one prompt from the same seed."""

    item: str
    prompt: str
    base: str  # path
    policy: str  # path


@dataclass(frozen=True)
class MeasureChunk:
    """Pairs whose values are saved together."""

    file: str
    pairs: tuple[ImagePair, ...]


Runner = Callable[[Settings, str, Sequence[MeasureChunk], Callable[[str], None]], None]
"""Measures chunks by the measure of a name, and writes their files."""


class Measurer:
    """One measure. Knows no Ray."""

    def __init__(self, name: str, settings: Settings) -> None:
        """Opens the model of a reward; image statistics need none."""
        device = "cuda" if settings.baselines.gpus else "cpu"
        opened = None if name == STATISTICS else open_scorer_baseline(name, settings.baselines, device)
        self._judge = opened

    def measure(self, chunk: MeasureChunk) -> int:
        """Writes the values of a chunk. Returns the number of its pairs. A pair with a damaged image is left out."""
        items, pairs = list[str](), list[Pair]()
        for pair in chunk.pairs:
            try:
                base, policy = (decode_image(Path(path).read_bytes()) for path in (pair.base, pair.policy))
            except (ImageError, FileNotFoundError):
                continue
            items.append(pair.item)
            pairs.append(Pair(str(len(pairs)), pair.prompt, None, policy, base, "perturbed", 0))
        content = {"items": items, "values": self._values(pairs)}
        write_file(chunk.file, json.dumps(content).encode())
        return len(chunk.pairs)

    def _values(self, pairs: Sequence[Pair]) -> list[list[float]]:
        """Statistics of base and policy, or the reward's margins, policy - base. The policy's image is image_w."""
        if self._judge is None:
            sides = [
                image_statistics(image[None])[0].tolist() for pair in pairs for image in (pair.image_l, pair.image_w)
            ]
            return [[*base, *policy] for base, policy in zip(sides[::2], sides[1::2], strict=True)]
        return [[float(margin)] for margin in self._judge.judge(pairs).margin] if pairs else []


class MeasureActor(Measurer):
    """The Ray side of a measure."""

    def __init__(self, name: str, settings: Settings) -> None:
        if name != STATISTICS:
            init_worker(settings.baselines.threads, settings.baselines.gpus)
        super().__init__(name, settings)


def measure_sides(
    settings: Settings,
    work: Sequence[Work],
    paths: RunPaths,
    log: Callable[[str], None] = print,
    run: Runner | None = None,
) -> None:
    """Measures policy against base on the images of all benchmarks. `run`: None by actors, for which Ray must run."""
    for name in measures_of(settings):
        plans = [(each, _chunks(settings, each, name, paths)) for each in work]
        missing = [chunk for _, chunks in plans for chunk in chunks if record_or_none(chunk.file, Measured) is None]
        if missing:
            (run or run_on_ray)(settings, name, missing, log)
        for each, chunks in plans:
            _join(paths.benchmark_measured(each.name, name), chunks)


def check_rewards(settings: Settings) -> None:
    """Raises SettingsError if weights of a reward are too large for the CPU, and section baselines has no GPU."""
    from pipelines.reward.baselines.requirements import require_device

    require_device(settings.benchmark.other_rewards, settings.baselines)


def run_on_ray(settings: Settings, name: str, chunks: Sequence[MeasureChunk], log: Callable[[str], None]) -> None:
    """Measures chunks: statistics on several actors, a reward on one, with its packages as in `reward evaluate`."""
    actor_class: Any = ray.remote(MeasureActor).options(**_options(name, settings.baselines))
    count = min(math.ceil(len(chunks) / CHUNKS_OF_AN_ACTOR), STATISTICS_ACTORS) if name == STATISTICS else 1
    actors = [actor_class.remote(name, settings) for _ in range(count)]
    total, done, pace = sum(len(chunk.pairs) for chunk in chunks), 0, Pace()
    try:
        with ProgressLine(f"benchmark: {name}", log) as progress:
            progress.phase(f"{total} pairs of images")
            pool: Any = ActorPool(actors)
            finished: Iterable[int] = pool.map_unordered(lambda actor, chunk: actor.measure.remote(chunk), chunks)  # pyright: ignore
            for pairs in finished:
                done += pairs
                progress.update(counted(done, total, "pairs", pace))
            progress.finish(f"{done} of {total} pairs of images measured")
    finally:
        for actor in actors:
            ray.kill(actor)


def _options(name: str, cfg: BaselinesSettings) -> dict[str, Any]:
    if name == STATISTICS:
        return actor_options(1, 1.0, 0)
    options = actor_options(cfg.threads, cfg.cpus, cfg.gpus)
    if cfg.isolated:
        options["runtime_env"] = runtime_env_of(KIND_OF_SCORER[name], "pip", options["runtime_env"])
    return options


def _chunks(settings: Settings, work: Work, name: str, paths: RunPaths) -> list[MeasureChunk]:
    """The chunks of a benchmark. Their names hold a digest of the measure and of size and time of every image file."""
    folders = [paths.benchmark_images(work.name, side) for side in ("base", "policy")]
    pairs, states = list[ImagePair](), list[list[int]]()
    for item, _, file in files_of(work):
        files = [folder / file for folder in folders]
        if all(each.is_file() for each in files):
            pairs.append(ImagePair(item.id, item.prompt, str(files[0]), str(files[1])))
            states.append([number for each in files for number in (each.stat().st_size, each.stat().st_mtime_ns)])
    cfg = settings.baselines
    plan = [name, *(NAMES if name == STATISTICS else [cfg.models.get(name, ""), cfg.revisions.get(name, "")])]
    size, parts = settings.benchmark.chunk_images, _parts(paths.benchmark_measured(work.name, name))
    chunks: list[MeasureChunk] = []
    for first in range(0, len(pairs), size):
        part = pairs[first : first + size]
        rows = [[each.item, each.prompt, *states[first + number]] for number, each in enumerate(part)]
        content = digest_of({"plan": plan, "rows": rows})
        chunks.append(MeasureChunk(join(parts, f"{first:09d}-{content[:16]}.json"), tuple(part)))
    return chunks


def _parts(target: Path) -> str:
    return str(target.with_name(f"{target.stem}.parts"))


def _join(target: Path, chunks: Sequence[MeasureChunk]) -> None:
    """Joins the chunks of a benchmark to one file. Chunks of other images are deleted."""
    items, values = list[str](), list[list[float]]()
    for chunk in chunks:
        content = json.loads(read_file(chunk.file))
        items += content["items"]
        values += content["values"]
    write_file(str(target), json.dumps({"items": items, "values": values}).encode())
    current = {Path(chunk.file).name for chunk in chunks}
    delete_files(_parts(target), lambda name: name.endswith(".json") and name not in current)
