"""GenEval's judge as Ray Data actors: detector and classifier of colours, chunk by chunk."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.images import ImageError, decode_image
from actors.worker_setup import actor_options, init_worker
from conf.benchmark import GenEvalSettings
from conf.settings import Settings
from pipelines.benchmark import geneval_rules
from pipelines.benchmark.geneval_rules import Detection
from pipelines.benchmark.instances import ColorClassifier, Instance, InstanceDetector
from pipelines.benchmark.items import BenchmarkItem, Judgement, without_image
from pipelines.benchmark.judge_actor import JudgeChunk, save_chunk
from pipelines.common.worker_log import WorkCounter


class InstanceJudge:
    """Judges images of GenEval by the instances and colours that two models find. Knows no Ray."""

    def __init__(self, settings: GenEvalSettings) -> None:
        device = init_worker(settings.threads, settings.gpus)
        self._detector = InstanceDetector(settings.detector, device)
        self._classifier = ColorClassifier(settings.clip, device)

    def judge(self, item: BenchmarkItem, image: int, file: bytes | None) -> Judgement:
        """The judgement of one image. `file`: the content of its file; None if there is none."""
        if file is None:
            return without_image(item, image)
        try:
            pixels = decode_image(file)
        except ImageError as error:
            return without_image(item, image, error)
        colored = {clause.name for clause in geneval_rules.clauses_of(item, "include") if clause.color}
        found = [each for each in self._detector.find(pixels) if each.score > geneval_rules.THRESHOLD]
        return geneval_rules.judge(item, image, [self._detection(pixels, each, each.name in colored) for each in found])

    def _detection(self, pixels: np.ndarray, found: Instance, with_color: bool) -> Detection:
        color = self._classifier.color(pixels, found) if with_color else ""
        return Detection(found.name, found.score, *found.box, color)


class DetectorActor:
    """Judges chunks of GenEval's images, and saves each."""

    def __init__(self, settings: GenEvalSettings, counter: WorkCounter) -> None:
        self._judge, self._counter = InstanceJudge(settings), counter

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Column `chunk` [B]: pickled JudgeChunk. Returns `error` [B]: ""."""
        for packed in rows["chunk"]:
            chunk: JudgeChunk = pickle.loads(packed)
            judgements = [
                self._judge.judge(item, image, Path(path).read_bytes() if path else None)
                for (item, image), path in zip(chunk.images, chunk.paths, strict=True)
            ]
            save_chunk(chunk, judgements, self._counter)
        return {"error": np.array([""] * len(rows["chunk"]), dtype=object)}


def detect(settings: Settings, chunks: Sequence[JudgeChunk], counter: WorkCounter) -> Any:
    """The dataset (lazy) of chunks that GenEval's models judge."""
    cfg = settings.geneval
    rows: Any = ray.data.from_items([{"chunk": pickle.dumps(chunk)} for chunk in chunks])
    return rows.map_batches(
        DetectorActor,
        fn_constructor_args=(cfg, counter),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(cfg.actors, len(chunks))),
        **actor_options(cfg.threads, cfg.cpus, cfg.gpus, runtime_env=cfg.runtime_env),
    )
