"""The manifest of judged images: everything that somebody needs to know before comparing the figures."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from actors.files import write_file
from actors.json_files import object_or_none
from conf.settings import Settings
from pipelines.benchmark.image_record import read_image_record
from pipelines.benchmark.items import Judgement, Unreadable
from pipelines.benchmark.work import Work
from pipelines.common.fingerprints import digest_of, digest_of_files


@dataclass(frozen=True)
class JudgeName:
    """Who judges one benchmark."""

    column: str
    """Name in tables, e.g. "gpt-4o" or "GenEval (transformers)"."""
    folder: str
    """Name of the folder of its judgements."""
    identity: Mapping[str, Any]
    """Everything that decides its answers."""
    host: str = ""
    """Host of the service; "" if the judge runs here."""


def host_of(url: str) -> str:
    """The host in the URL of a service, without user and port."""
    return urlsplit(url).hostname or ""


def write_manifest(
    path: Path,
    settings: Settings,
    work: Work,
    judge: JudgeName,
    images: Path,
    digests: Mapping[str, str],
    judgements: Sequence[Judgement],
) -> None:
    """Writes the manifest of one side. `images`: folder of the images; `digests`: file -> SHA-256."""
    record = read_image_record(images)
    missing = [each for each in judgements if isinstance(each, Unreadable)]
    content = {
        "benchmark": work.name,
        "title": work.benchmark.title,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "spatialt2i": importlib.metadata.version("spatialt2i"),
        "part": settings.benchmark.part,
        "tiif_set": settings.benchmark.tiif_set,
        "judge": {"name": judge.column, "host": judge.host, **judge.identity},
        "wording": {"origin": work.wording.origin, "sha256": work.wording.sha256},
        "data": {
            "sha256": digest_of_files(work.folder),
            "problems": [problem.text for problem in work.benchmark.check(work.folder)],
            "prompts": len(work.items),
        },
        "generation": {name: value for name, value in (record or {}).items() if name != "prompts"} or "made elsewhere",
        "images": {"sha256": digest_of(dict(digests)), "files": dict(sorted(digests.items()))},
        "judgements": {
            "images": len(judgements),
            "readable": len(judgements) - len(missing),
            "missing": {why: sum(each.why == why for each in missing) for why in sorted({one.why for one in missing})},
            "calls": sum(each.attempts for each in judgements),
        },
    }
    write_file(str(path), json.dumps(content, indent=1).encode())


def manifest_of(judgements: Path) -> Path:
    """The manifest beside a file of judgements."""
    return judgements.with_suffix(".manifest.json")


def read_manifest(judgements: Path) -> dict[str, Any] | None:
    """The manifest beside a file of judgements; None if there is none that can be read."""
    path = manifest_of(judgements)
    return object_or_none(str(path)) if path.is_file() else None
