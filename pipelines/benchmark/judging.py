"""`benchmark judge`, the driver: image files -> chunks -> judges -> one file of judgements and a manifest a side."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.files import delete_files, digest, join
from actors.services.budget import BudgetTracker
from actors.services.keys import Key, key_of
from actors.worker_setup import actor_options
from conf import UserError
from conf.settings import Settings
from pipelines.benchmark.items import BenchmarkItem, Judgement, Unreadable
from pipelines.benchmark.judge_actor import (
    JUDGED,
    MISSING,
    ChatJudgeSetup,
    JudgeActor,
    JudgeChunk,
    JudgeContext,
    is_finished,
)
from pipelines.benchmark.judgement_files import read_judgements, write_judgements
from pipelines.benchmark.judges import UNFINISHED, judge_identity
from pipelines.benchmark.manifest import JudgeName, host_of, manifest_of, write_manifest
from pipelines.benchmark.work import Work, files_of, judge_settings
from pipelines.common.fingerprints import SHORT_DIGITS, digest_of
from pipelines.common.paths import RunPaths, run_paths
from pipelines.common.progress_line import Pace, ProgressLine, counted
from pipelines.common.worker_log import WorkCounter
from pipelines.preferences.services import SERVICE_CPUS, RemoteBudget

_CHUNK_FILE = re.compile(r"[0-9]{9}-[0-9a-f]{16}\.parquet")
EXACT = "exact checker"
"""Name of the judge of the scenes world in tables."""
READERS = 8
"""Threads that read image files for their digests."""


Runner = Callable[[Settings, Sequence[Work], Sequence[JudgeChunk], Callable[[str], None]], None]
"""Judges chunks of images and writes their files."""


@dataclass(frozen=True)
class SideOfWork:
    """One benchmark and one side whose images are judged."""

    work: Work
    side: str
    judge: JudgeName
    images: Path  # folder
    judgements: Path  # parquet file
    digests: Mapping[str, str]  # file name -> SHA-256, of the images that exist
    chunks: tuple[JudgeChunk, ...]

    @property
    def parts(self) -> str:
        """Folder of the chunks."""
        return str(self.judgements.with_suffix(".parts"))


@dataclass(frozen=True)
class JudgeResult:
    """The result of `judge_sides`."""

    images: int
    missing: Mapping[str, int]  # reason -> images
    unanswered: str  # why calls failed that another start may repeat; "" if none did

    def __str__(self) -> str:
        total = sum(self.missing.values())
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(self.missing.items()))
        return f"{self.images - total} of {self.images} images judged" + (f"; missing: {reasons}" if total else "")


def judge_sides(
    settings: Settings,
    work: Sequence[Work],
    sides: Sequence[str],
    paths: RunPaths,
    log: Callable[[str], None] = print,
    run: Runner | None = None,
) -> JudgeResult:
    """Judges the images of all benchmarks and sides, as far as they are not judged, and writes the judgements.

    An image that is missing gets a row that says so. `run` writes the files of chunks; None: by actors, for which Ray
    must be initialised. Raises UserError if there are no images,
    the key of a judge is not set, or a service does not take the calls.
    """
    plan = [_plan(settings, each, side, paths) for each in work for side in sides]
    missing = [chunk for side in plan for chunk in side.chunks if not is_finished(read_judgements(chunk.file))]
    if missing:
        (run or run_on_ray)(settings, work, missing, log)
    unanswered, reasons, images = "", dict[str, int](), 0
    for side in plan:
        judgements = _join(settings, side)
        images += len(judgements)
        for each in judgements:
            if isinstance(each, Unreadable):
                reasons[each.why] = reasons.get(each.why, 0) + 1
                unanswered = each.detail if each.why == UNFINISHED else unanswered
    return JudgeResult(images, reasons, unanswered)


def name_judge(settings: Settings, work: Work) -> JudgeName:
    """Who judges a benchmark by the settings."""
    cfg, benchmark = settings.benchmark, work.benchmark
    if benchmark.form == "detector":
        if cfg.judge == "exact":
            return _named(EXACT, {"model": EXACT})
        models = {"model": settings.geneval.detector, "clip": settings.geneval.clip}
        return _named(f"{benchmark.title} (transformers)", models, models["model"])
    judge = judge_settings(settings, work.name)
    identity = judge_identity(judge, work.wording, cfg.attempts)
    if cfg.judge == "exact":
        return _named(EXACT, identity | {"model": EXACT, "options": {}})
    return _named(judge.model, identity, judge.model, host_of(judge.url))


def _named(column: str, identity: Mapping[str, Any], model: str = "", host: str = "") -> JudgeName:
    words = re.sub(r"[^A-Za-z0-9.]+", "-", (model or column).rpartition("/")[2]).strip("-.")
    return JudgeName(column, f"{words}-{digest_of(identity)[:SHORT_DIGITS]}", identity, host)


def _plan(settings: Settings, work: Work, side: str, paths: RunPaths) -> SideOfWork:
    """The chunks of a side. Raises UserError if it has no image at all."""
    judge, folder = name_judge(settings, work), paths.benchmark_images(work.name, side)
    target, images = paths.benchmark_judgements(work.name, judge.folder, side), files_of(work)
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda image: _digest_of_image(folder / image[2]), images)
        digests = {name: found_digest for (_, _, name), found_digest in zip(images, found, strict=True) if found_digest}
    if not digests:
        raise UserError(
            f"benchmark {work.name}: no images of {side} in {folder}: run `spatialt2i benchmark draw` first"
        )
    size, chunks, parts = settings.benchmark.chunk_images, list[JudgeChunk](), str(target.with_suffix(".parts"))
    for first in range(0, len(images), size):
        part = images[first : first + size]
        paths_of = tuple(str(folder / name) if name in digests else "" for _, _, name in part)
        content = digest_of(
            {
                "judge": judge.identity,
                "rows": [[item, image, digests.get(name)] for item, image, name in part],
            }
        )
        file = join(parts, f"{first:09d}-{content[:16]}.parquet")
        chunks.append(JudgeChunk(work.name, file, tuple((item, image) for item, image, _ in part), paths_of))
    return SideOfWork(work, side, judge, folder, target, digests, tuple(chunks))


def _digest_of_image(path: Path) -> str:
    """SHA-256 of an image file; "" if there is none."""
    try:
        return digest(path.read_bytes())
    except FileNotFoundError:
        return ""


def run_on_ray(
    settings: Settings, work: Sequence[Work], chunks: Sequence[JudgeChunk], log: Callable[[str], None]
) -> None:
    """Judges chunks: those of detectors on actors with a model, the others on one actor that waits for replies."""
    detected = {each.name for each in work if each.benchmark.form == "detector" and settings.benchmark.judge != "exact"}
    asked = [chunk for chunk in chunks if chunk.name not in detected]
    counter, pace, total = WorkCounter.start(), Pace(), sum(len(chunk.images) for chunk in chunks)
    datasets = list[Any]()
    if asked:
        datasets.append(_ask(settings, work, asked, counter))
    if len(asked) < len(chunks):
        from pipelines.benchmark.detecting import detect

        datasets.append(detect(settings, [chunk for chunk in chunks if chunk.name in detected], counter))

    def state() -> str:
        counts = counter.read()
        done, missing = sum(counts.values()), counts.get(MISSING, 0)
        text = counted(done, total, "images", pace)
        return (f"{text}  {missing} without a readable judgement" if missing else text) if done else ""

    with ProgressLine("benchmark judge", log) as progress:
        progress.phase(f"starting the judges for {total} images")
        progress.follow(state)
        for dataset in datasets:
            _drain(dataset)
        counts = counter.read()
        progress.finish(f"{counts.get(JUDGED, 0)} of {total} images have a readable judgement")


def _drain(dataset: Any) -> None:
    """Runs a dataset of chunks to its end. Raises UserError with the first error that no call can succeed with."""
    dataset.context.enable_progress_bars = False
    errors = [row["error"] for row in dataset.iter_rows() if row["error"]]
    if errors:
        raise UserError(errors[0])


def _ask(settings: Settings, work: Sequence[Work], chunks: Sequence[JudgeChunk], counter: WorkCounter) -> Any:
    """The dataset (lazy) of chunks that chat judges, or the exact checker, answer."""
    cfg, setups = settings.benchmark, chat_setups(settings, work)
    exact = cfg.judge == "exact"
    tracker: Any = ray.remote(BudgetTracker).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    paths = run_paths(settings)
    # The exact checker costs nothing, so its calls do not count.
    budget = tracker.remote() if exact else tracker.remote(settings.budget, str(paths.account))
    cache = "" if exact else settings.budget.cache or str(paths.answers)
    context = JudgeContext(setups, exact, RemoteBudget(budget), cache, counter)
    concurrency = sum({setup.judge.section: setup.judge.concurrency for setup in setups.values()}.values())
    in_flight = math.ceil(concurrency / cfg.chunk_images) + 1
    rows: Any = ray.data.from_items([{"chunk": pickle.dumps(chunk)} for chunk in chunks])
    return rows.map_batches(
        JudgeActor,
        fn_constructor_args=(context,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=1, max_tasks_in_flight_per_actor=in_flight, max_concurrent_calls_per_actor=in_flight
        ),
        **actor_options(1, SERVICE_CPUS, 0),
    )


def chat_setups(settings: Settings, work: Sequence[Work]) -> dict[str, ChatJudgeSetup]:
    """Benchmark -> its chat judge. Raises SettingsError if the key of one is not set."""
    cfg, setups = settings.benchmark, dict[str, ChatJudgeSetup]()
    for each in work:
        if each.benchmark.form != "detector":
            judge = judge_settings(settings, each.name)
            key = Key("none") if cfg.judge == "exact" else key_of(judge)
            setups[each.name] = ChatJudgeSetup(each.benchmark, each.wording, judge, key, cfg.attempts)
    return setups


def _join(settings: Settings, side: SideOfWork) -> list[Judgement]:
    """Joins the chunks of a side to one file, with its manifest. Chunks of other images or questions are deleted."""
    judgements = [each for chunk in side.chunks for each in read_judgements(chunk.file) or _lost(chunk.images)]
    write_judgements(str(side.judgements), judgements)
    write_manifest(manifest_of(side.judgements), settings, side.work, side.judge, side.images, side.digests, judgements)
    current = {Path(chunk.file).name for chunk in side.chunks}
    delete_files(side.parts, lambda name: bool(_CHUNK_FILE.fullmatch(name)) and name not in current)
    return judgements


def _lost(images: Iterable[tuple[BenchmarkItem, int]]) -> list[Judgement]:
    """The judgements of a chunk whose file was removed at this moment."""
    return [Unreadable(item.id, image, UNFINISHED, "the file of the chunk is gone") for item, image in images]
