"""Rows as they are published. `datasets.load_dataset("parquet", ...)` decodes their images.

`datasets` reads the features of a table from the metadata of its schema. There an image must be {bytes, path} only, so
the digests, which a build stores inside its image structs, become separate columns.
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
    for column in SCHEMA:
        if column.name in ("image_w", "image_l"):
            fields.append(pa.field(column.name, _IMAGE))
            fields += [pa.field(f"{column.name}_{digest}", pa.string()) for digest in ("sha256", "phash")]
        else:
            fields.append(column)
    features = {field.name: _feature(field.type) for field in fields}
    metadata = {"schema_version": SCHEMA_VERSION, "huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def _feature(kind: pa.DataType) -> dict[str, Any] | list[Any]:
    """The description of an Arrow type for `datasets`, in the form that its versions before 4 read, too."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


PUBLISHED_SCHEMA = _schema()


def published_row(row: Mapping[str, Any], review: Review | None) -> dict[str, Any]:
    """A row of a build as a row of PUBLISHED_SCHEMA, with the annotators' review if there is one."""
    digests = {f"image_{side}_{name}": row[f"image_{side}"][name] for side in SIDES for name in ("sha256", "phash")}
    images = {f"image_{side}": {"bytes": row[f"image_{side}"]["bytes"], "path": None} for side in SIDES}
    return {**row, **digests, **images, "review": vars(review) if review else row["review"]}
