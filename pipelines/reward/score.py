"""`reward score`: scores a folder of images under their prompts with a pool of SpatialScores."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from actors.files import delete_files, exists, join, read_file, write_file
from conf.settings import Settings
from pipelines.common.paths import spatialscore_folder
from pipelines.common.progress_line import Pace, ProgressLine, counted
from pipelines.reward.sanity_report import weights_digest
from pipelines.reward.score_files import SCHEMA, score_tables
from pipelines.reward.score_input import ScoreRequest, image_folder, read_requests
from pipelines.reward.served_model import served_model

_CHUNK_FILE = re.compile(r"[0-9]{9}-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True)
class ScoreResult:
    """The result of `score_images`."""

    out: str
    images: int
    without_score: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.images} images in {self.seconds:.0f} s, {self.without_score} of them without a score (see column "
            f"`error`): {self.out}"
        )


@dataclass(frozen=True)
class Chunk:
    """Rows that are saved together, so that an interrupted call does not score them again."""

    requests: Sequence[ScoreRequest]
    file: str


def score_images(settings: Settings, log: Callable[[str], None] = print) -> ScoreResult:
    """Scores the images of `score.prompts` and writes `score.out`: read -> score chunk by chunk -> join.

    The parquet file has the rows of SCHEMA, in the order of the prompts. An image that is missing or broken gets a row
    with an error. `log` takes lines of progress. An interrupted call resumes at its last chunk. Ray must be
    initialized. Raises UserError if the prompts file or the image folder is invalid, or if there is no SpatialScore.
    """
    cfg, model, start = settings.score, served_model(settings), time.monotonic()
    requests, images, parts = read_requests(cfg.prompts), image_folder(cfg.images), f"{cfg.out}.parts"
    version = f"{weights_digest(spatialscore_folder(settings))}|{images}"
    chunks = _make_chunks(requests, cfg.chunk_rows, parts, version)
    missing = [chunk for chunk in chunks if not exists(chunk.file)]
    to_score = [request for chunk in missing for request in chunk.requests]
    tables = score_tables(to_score, images, model, settings.serving, cfg.chunk_rows)
    done, without_score, pace = 0, 0, Pace()
    with ProgressLine("score", log) as progress:
        progress.phase(f"loading SpatialScore for {len(to_score)} images")
        for chunk, table in zip(missing, tables, strict=True):
            write_file(chunk.file, _parquet(table))
            done += table.num_rows
            without_score += _count_errors(table)
            progress.finish(f"{counted(done, len(to_score), 'images', pace)}  {without_score} without a score")
    table = pa.concat_tables([pq.read_table(pa.BufferReader(read_file(chunk.file))) for chunk in chunks])
    write_file(cfg.out, _parquet(table))
    delete_files(parts, lambda name: bool(_CHUNK_FILE.fullmatch(name)))
    return ScoreResult(cfg.out, table.num_rows, _count_errors(table), time.monotonic() - start)


def _make_chunks(requests: Sequence[ScoreRequest], rows: int, folder: str, version: str) -> list[Chunk]:
    """The chunks of `rows` rows. `version`: of model and images; a chunk's file is reused for equal content only."""
    chunks: list[Chunk] = []
    for first in range(0, len(requests), rows):
        part = requests[first : first + rows]
        content = json.dumps([version, *(asdict(request) for request in part)])
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        chunks.append(Chunk(part, join(folder, f"{first:09d}-{digest}.parquet")))
    return chunks


def _count_errors(table: pa.Table) -> int:
    return table.num_rows - table["error"].null_count


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.cast(SCHEMA), buffer)
    return buffer.getvalue()
