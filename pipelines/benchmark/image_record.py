"""The record of a folder of generated images: by what they were made. Images of another model are moved aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.files import write_file
from actors.json_files import object_or_none
from conf.settings import Settings
from pipelines.benchmark.items import BenchmarkItem
from pipelines.common.fingerprints import SHORT_DIGITS, digest_of, digest_of_files, digest_of_model
from pipelines.common.paths import RunPaths
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.versions import read_export_record

RECORD = "_images.json"
"""File of a folder of images that says by what they were made."""


@dataclass(frozen=True)
class ImageRecord:
    """Everything that decides the pixels of a side's images, beside prompt and number of each."""

    model: str
    """Digest of the base's files, or its name on the hub."""
    adapter: str
    """SHA-256 of the exported LoRA; "" for the base."""
    policy_version: int | None
    height: int
    width: int
    denoise_steps: int
    guidance: float
    true_cfg: float
    negative_prompt: str
    cfg_norm_limit: float
    cfg_truncation: float
    max_sequence_length: int
    dtype: str
    seed: int
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Item -> short digest of its prompt."""

    @property
    def key(self) -> str:
        """Short digest of all but the prompts."""
        return digest_of({**asdict(self), "prompts": {}})[:SHORT_DIGITS]


def image_record(settings: Settings, side: str, paths: RunPaths, items: Sequence[BenchmarkItem]) -> ImageRecord:
    """The record of a side's images by the present settings. `paths`: of the policy version that is exported."""
    size, flux, tuned = sampling_size(settings), settings.flux, side == "policy"
    location = flux_location(settings)
    exported = read_export_record(paths.export) if tuned else None
    return ImageRecord(
        model=digest_of_model(Path(location)) if Path(location).is_dir() else location,
        adapter=digest_of_files(paths.export) if tuned else "",
        policy_version=exported.policy_version if exported else None,
        height=size.height,
        width=size.width,
        denoise_steps=size.denoise_steps,
        guidance=flux.guidance,
        true_cfg=flux.true_cfg,
        negative_prompt=flux.negative_prompt,
        cfg_norm_limit=flux.cfg_norm_limit,
        cfg_truncation=flux.cfg_truncation,
        max_sequence_length=flux.max_sequence_length,
        dtype=flux.dtype,
        seed=settings.benchmark.seed,
        prompts={item.id: digest_of_prompt(item.prompt) for item in items},
    )


@dataclass(frozen=True)
class SamplingSize:
    """Size and denoise steps of a benchmark's images."""

    height: int
    width: int
    denoise_steps: int


def sampling_size(settings: Settings) -> SamplingSize:
    """Size and denoise steps of the images: of section benchmark, and where that says 0, of the run."""
    cfg = settings.benchmark
    return SamplingSize(
        cfg.height or settings.flux.height,
        cfg.width or settings.flux.width,
        cfg.denoise_steps or settings.evaluation.denoise_steps,
    )


def digest_of_prompt(text: str) -> str:
    """A short digest of a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT_DIGITS]


def open_image_folder(folder: Path, record: ImageRecord, log: Callable[[str], None] = print) -> None:
    """Prepares the folder of a side's images, so that every image in it is one by the present settings.

    Images of another model, size or seed are moved to a folder beside it, and come back if their settings do. Images of
    an item whose prompt has changed are deleted.
    """
    old = read_image_record(folder)
    if old and old["key"] != record.key:
        aside = folder.with_name(f"{folder.name}.{old['key']}")
        log(f"{folder} has images of other settings ({_changes(old, record)}): they are moved to {aside.name}")
        folder.rename(aside)
        kept = folder.with_name(f"{folder.name}.{record.key}")
        if kept.is_dir():
            kept.rename(folder)
        old = read_image_record(folder)
    known: Mapping[str, str] = old["prompts"] if old else {}
    merged = asdict(record) | {"key": record.key, "prompts": {**known, **record.prompts}}
    changed = {item for item, prompt in record.prompts.items() if item in known and known[item] != prompt}
    for path in folder.glob("*.png"):
        if path.stem.rpartition("_")[0] in changed:
            path.unlink()  # before the record says otherwise
    write_file(str(folder / RECORD), json.dumps(merged, indent=1).encode())


def read_image_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder of images; None if it has none that can be read."""
    found = object_or_none(str(folder / RECORD)) if (folder / RECORD).is_file() else None
    return found if found and isinstance(found.get("key"), str) and isinstance(found.get("prompts"), dict) else None


def _changes(old: Mapping[str, Any], new: ImageRecord) -> str:
    """The first values that differ, for a message."""
    values = asdict(new)
    names = [name for name in values if name != "prompts" and old.get(name) != values[name]]
    return ", ".join(f"{name} {_short(old.get(name))} instead of {_short(values[name])}" for name in names[:3])


def _short(value: object) -> str:
    return str(value)[:SHORT_DIGITS]
