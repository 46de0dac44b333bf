"""Rows as they are published: `datasets.load_dataset("parquet", ...)` shows their images as images.

`datasets` takes the features of a table from the schema's metadata, and an image must then be {bytes, path} alone; so
the digests, which a build keeps inside its image structs, become columns of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines.preferences.dataset.schema import SCHEMA, SCHEMA_VERSION
from pipelines.preferences.review.pairs import SIDES
from pipelines.preferences.roles.base import Review

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _schema() -> pa.Schema:
    fields: list[pa.Field] = []
    for own in SCHEMA:
        if own.name in ("image_w", "image_l"):
            fields.append(pa.field(own.name, _IMAGE))
            fields += [pa.field(f"{own.name}_{digest}", pa.string()) for digest in ("sha256", "phash")]
        else:
            fields.append(own)
    features = {field.name: _feature(field.type) for field in fields}
    metadata = {"schema_version": SCHEMA_VERSION, "huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """An Arrow type as `datasets` describes it."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


PUBLISHED_SCHEMA = _schema()


def published_row(row: Mapping[str, Any], review: Review | None) -> dict[str, Any]:
    """A build's row in PUBLISHED_SCHEMA, with the review that people gave it, if they did."""
    digests = {f"image_{side}_{name}": row[f"image_{side}"][name] for side in SIDES for name in ("sha256", "phash")}
    images = {f"image_{side}": {"bytes": row[f"image_{side}"]["bytes"], "path": None} for side in SIDES}
    return {**row, **digests, **images, "review": vars(review) if review else row["review"]}
