"""The Arrow schema of the preference rows, and the conversion of reviewed pairs to rows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipelines.common.images import StoredImage
from pipelines.preferences.roles.base import ImagePair, Review

SCHEMA_VERSION = "2"

IGNORE_SEEDS = ("seedream",)
"""Generators that draw another image at every call, whatever the seed."""

_IMAGE = pa.struct(
    [("bytes", pa.binary()), ("path", pa.string()), ("sha256", pa.string()), ("phash", pa.string())]
)  # `datasets.Image` decodes the fields `bytes` and `path`
_RELATION = pa.struct([("subject", pa.string()), ("relation", pa.string()), ("object", pa.string())])
_PERTURBATION = pa.struct([("kind", pa.string()), ("from", pa.string()), ("to", pa.string())])
_REVIEW = pa.struct(
    [
        ("status", pa.string()),  # see ReviewStatus
        ("tier", pa.string()),  # see Tier; null unless the pair is accepted
        ("votes", pa.list_(pa.string())),  # see PreferenceVote
        ("agreement", pa.float32()),
        ("gold", pa.bool_()),
    ]
)

_IMAGE_CHECK = pa.struct(
    [
        ("winner", pa.list_(pa.string())),  # the judge's answers: each object, then each relation
        ("loser", pa.list_(pa.string())),
        ("tries", pa.list_(pa.int32())),  # images that were generated for the winner and for the loser
        ("audit", pa.bool_()),  # the first images were kept, whatever the answers
    ]
)

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("group_id", pa.string()),
        ("split", pa.string()),  # train | test; publish adds benchmark
        ("kind", pa.string()),  # see PairKind
        ("prompt", pa.string()),
        ("perturbed_prompt", pa.string()),  # null if both images have the same prompt
        ("image_w", _IMAGE),  # the winner: it shows the prompt
        ("image_l", _IMAGE),  # the loser
        ("generator", pa.string()),
        ("seed", pa.int64()),  # of all randomness; image services get it modulo 2^31
        ("seed_shared", pa.bool_()),  # whether both images started from the same noise
        ("scene", pa.string()),
        ("relations", pa.list_(_RELATION)),
        ("perturbations", pa.list_(_PERTURBATION)),
        ("n_perturb", pa.int32()),  # number of changed relations
        ("image_check", _IMAGE_CHECK),  # null without a check before the review
        ("review", _REVIEW),
        ("schema_version", pa.string()),
        ("provenance", pa.string()),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)


def to_table(pairs: Sequence[ImagePair], reviews: Sequence[Review], splits: Sequence[str], provenance: str) -> pa.Table:
    """Reviewed pairs as rows of SCHEMA, in the same order. `provenance` is the fingerprint of the build."""
    rows = [_row(pair, review, split, provenance) for pair, review, split in zip(pairs, reviews, splits, strict=True)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def pair_id(index: int) -> str:
    """The id of row `index`. Ids sort in the order of the rows."""
    return f"pair-{index:08d}"


def _row(pair: ImagePair, review: Review, split: str, provenance: str) -> dict[str, object]:
    prompts = pair.prompts
    return {
        "pair_id": pair_id(prompts.spec.index),
        "group_id": prompts.group_id,
        "split": split,
        "kind": prompts.spec.kind,
        "prompt": prompts.prompt.text,
        "perturbed_prompt": prompts.perturbed.text if prompts.perturbed else None,
        "image_w": _image(pair.winner),
        "image_l": _image(pair.loser),
        "generator": pair.winner.generator,
        "seed": prompts.spec.seed,
        "seed_shared": pair.winner.seed == pair.loser.seed and pair.winner.generator not in IGNORE_SEEDS,
        "scene": prompts.scene,
        "relations": [vars(relation) for relation in prompts.prompt.relations],
        "perturbations": [{"kind": e.kind, "from": e.before, "to": e.after} for e in prompts.edits],
        "n_perturb": len(prompts.edits) if prompts.perturbed else 0,
        "image_check": vars(pair.check) if pair.check else None,
        "review": vars(review),
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance,
    }


def _image(image: StoredImage) -> dict[str, object]:
    return {"bytes": image.content, "path": None, "sha256": image.sha256, "phash": image.phash}
