"""Exports preference pairs in the formats of Pick-a-Pic v2 and HPDv3, which other code reads.

Rows without votes are left out: both formats state who preferred which image.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.files import digest, write_file
from actors.images import ImageError, decode_image
from conf import UserError
from pipelines.common.images import encode_jpeg, encode_png

_ROW_GROUP = 32  # rows in memory at a time

_PICKAPIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ms")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),  # 1: preferred, 0: not
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
    ]
)


def export_pickapic(preferences: Path, split: str, out: Path) -> Path:
    """Writes a split as `<split>.parquet` with the columns of Pick-a-Pic v2, and returns the file.

    The id of a pair determines which image comes first. Raises UserError if the split is empty, or if an image cannot
    be read.
    """
    counts = Counter(row["prompt"] for row in _rows(preferences, split, columns=["prompt", "review"]))
    path, partial = out / f"{split}.parquet", out / f"{split}.parquet.partial"
    out.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(partial, _PICKAPIC) as file:  # row group by row group: a split may not fit in memory
        for start, rows in enumerate(_grouped(_rows(preferences, split))):
            converted = [_pickapic(start * _ROW_GROUP + i, row, counts) for i, row in enumerate(rows)]
            file.write_table(pa.Table.from_pylist(converted, schema=_PICKAPIC))
    partial.replace(path)
    return path


def export_hpdv3(preferences: Path, split: str, out: Path) -> Path:
    """Writes a split as `<split>.json` in the format of HPDv3, next to a folder of images, and returns the file.

    `path1` is always the preferred image. Paths are relative to the file. Raises UserError if the split is empty, or if
    an image cannot be read.
    """
    entries: list[dict[str, Any]] = []
    for row in _rows(preferences, split):
        paths: dict[str, str] = {}
        for side in ("w", "l"):
            image = row[f"image_{side}"]
            paths[side] = f"images/{digest(image['bytes'])[:24]}.png"
            write_file(str(out / paths[side]), encode_png(_decode(image["bytes"], row["pair_id"])))
        votes = row["review"]["votes"]
        entries.append(
            {
                "prompt": row["prompt"],
                "path1": paths["w"],
                "path2": paths["l"],
                "confidence": row["review"]["agreement"],
                "choice_dist": [votes.count("w"), votes.count("l")],
                "model1": row["generator"],
                "model2": row["generator"],
            }
        )
    path = out / f"{split}.json"
    write_file(str(path), json.dumps(entries, indent=1).encode())
    return path


def _rows(preferences: Path, split: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    files = sorted(preferences.glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"no pairs of split {split!r} in {preferences}: run `spatialt2i preferences build` first")
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_ROW_GROUP, columns=columns):
            yield from (row for row in batch.to_pylist() if row["review"]["votes"])


def _grouped(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, _ROW_GROUP)):
        yield group


def _pickapic(index: int, row: dict[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    loser_first = hashlib.blake2b(row["pair_id"].encode(), digest_size=1).digest()[0] % 2
    images = [row["image_l"], row["image_w"]] if loser_first else [row["image_w"], row["image_l"]]
    sides: dict[str, Any] = {}
    for i, image in enumerate(images):
        preferred = float(i == loser_first)
        sides |= {
            f"image_{i}_uid": digest(image["bytes"]),
            f"image_{i}_url": "",
            f"jpg_{i}": _jpeg(image["bytes"], row["pair_id"]),
        }
        sides |= {f"label_{i}": preferred, f"model_{i}": row["generator"]}
    return {
        **sides,
        "are_different": True,
        "best_image_uid": digest(row["image_w"]["bytes"]),
        "caption": row["prompt"],
        "created_at": None,
        "has_label": True,
        "ranking_id": index,
        "user_id": 0,
        "num_example_per_prompt": counts[row["prompt"]],
    }


def _jpeg(encoded: bytes, pair_id: str) -> bytes:
    return encode_jpeg(_decode(encoded, pair_id), quality=95)


def _decode(encoded: bytes, pair_id: str) -> np.ndarray:
    try:
        return decode_image(encoded)
    except ImageError as error:
        raise UserError(f"pair {pair_id} cannot be exported: {error}. Repair or remove its row") from error
