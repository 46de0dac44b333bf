"""What a row of the preference data is: DESIGN's columns as an Arrow schema, and how a reviewed pair becomes one."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipelines.common.images import StoredImage
from pipelines.preferences.roles.base import ImagePair, Review

SCHEMA_VERSION = "1"

_IMAGE = pa.struct(
    [("bytes", pa.binary()), ("path", pa.string()), ("sha256", pa.string()), ("phash", pa.string())]
)  # `bytes` and `path` are what `datasets.Image` decodes
_RELATION = pa.struct([("subject", pa.string()), ("relation", pa.string()), ("object", pa.string())])
_PERTURBATION = pa.struct([("kind", pa.string()), ("from", pa.string()), ("to", pa.string())])
_REVIEW = pa.struct(
    [("status", pa.string()), ("votes", pa.list_(pa.string())), ("agreement", pa.float32()), ("gold", pa.bool_())]
)

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("group_id", pa.string()),
        ("split", pa.string()),  # train | test | benchmark
        ("kind", pa.string()),  # perturbed | exploit | generated
        ("prompt", pa.string()),
        ("perturbed_prompt", pa.string()),  # null where the prompt was not changed
        ("image_w", _IMAGE),  # the winner, which shows the prompt
        ("image_l", _IMAGE),
        ("generator", pa.string()),
        ("seed", pa.int64()),  # of everything random; painters of photographs take it modulo 2^31
        ("scene", pa.string()),
        ("relations", pa.list_(_RELATION)),
        ("perturbations", pa.list_(_PERTURBATION)),
        ("n_perturb", pa.int32()),  # number of changed relations
        ("review", _REVIEW),
        ("schema_version", pa.string()),
        ("provenance", pa.string()),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)


def to_table(pairs: Sequence[ImagePair], reviews: Sequence[Review], splits: Sequence[str], provenance: str) -> pa.Table:
    """Reviewed pairs as rows of SCHEMA, in their order."""
    rows = [_row(*parts, provenance) for parts in zip(pairs, reviews, splits, strict=True)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def pair_id(index: int) -> str:
    """The id of row `index`, which sorts as the rows do."""
    return f"pair-{index:08d}"


def _row(pair: ImagePair, review: Review, split: str, provenance: str) -> dict[str, object]:
    draft = pair.draft
    return {
        "pair_id": pair_id(draft.task.index),
        "group_id": draft.group_id,
        "split": split,
        "kind": draft.task.kind,
        "prompt": draft.prompt.text,
        "perturbed_prompt": draft.perturbed.text if draft.perturbed else None,
        "image_w": _image(pair.winner),
        "image_l": _image(pair.loser),
        "generator": pair.winner.generator,
        "seed": draft.task.seed,
        "scene": draft.scene,
        "relations": [vars(relation) for relation in draft.prompt.relations],
        "perturbations": [{"kind": c.kind, "from": c.before, "to": c.after} for c in draft.changes],
        "n_perturb": len(draft.changes) if draft.perturbed else 0,
        "review": vars(review),
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance,
    }


def _image(picture: StoredImage) -> dict[str, object]:
    return {"bytes": picture.png, "path": None, "sha256": picture.sha256, "phash": picture.phash}
