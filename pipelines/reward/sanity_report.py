"""What the doctor found, on disk, and who may steer a policy because of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import write_file
from actors.spatialscore.config import ADAPTER_FILE, BACKBONE_FOLDER, HEAD_FILE
from conf.settings import Settings
from pipelines.common.paths import reward_folder, score_folder

SANITY_REPORT_FILE = "doctor.json"


@dataclass(frozen=True)
class SanityCheck:
    """One check's outcome, with what it means if it fails."""

    name: str
    passed: bool
    value: float
    wanted: str
    if_failed: str


def write_sanity_report(settings: Settings, checks: Sequence[SanityCheck]) -> None:
    """Writes <run_dir>/reward/doctor.json: the checks, and the digest of the weights that they were made on."""
    found = {"weights": weights_digest(score_folder(settings)), "checks": [asdict(check) for check in checks]}
    write_file(str(reward_folder(settings) / SANITY_REPORT_FILE), json.dumps(found, indent=2).encode())


def require_passed(settings: Settings) -> None:
    """Raises ValueError, with the mend, unless the run's SpatialScore has passed all of the doctor's checks.

    The examination may lie in this run or beside the model (`serving.model` of another run), and counts for the weights
    that it was made on only. `serving.skip_sanity_checks` goes without.
    """
    if settings.serving.skip_sanity_checks:
        return
    model = score_folder(settings)
    checks = _read_sanity_report(reward_folder(settings), model) or _read_sanity_report(model.parent, model)
    mend = "or set serving.skip_sanity_checks=true to train on it all the same"
    if not checks:
        raise ValueError(f"the SpatialScore at {model} was not examined: run `spatialt2i reward check`, {mend}")
    if failed := [check.name for check in checks if not check.passed]:
        raise ValueError(
            f"the SpatialScore at {model} failed at the doctor's: {', '.join(failed)}. `spatialt2i reward check` says "
            f"what that means; mend it, {mend}"
        )


def _read_sanity_report(folder: Path, model: Path) -> tuple[SanityCheck, ...]:
    """The checks in a folder, if they were made on the model's weights; else none."""
    path = folder / SANITY_REPORT_FILE
    if not path.is_file():
        return ()
    found = json.loads(path.read_text())
    if not isinstance(found, dict) or found["weights"] != weights_digest(model):  # a list: of before weights were noted
        return ()
    return tuple(SanityCheck(**check) for check in found["checks"])


def weights_digest(model: Path) -> str:
    """SHA-256 of what was trained: adapter and head, or the backbone that an adapter was merged into, and head."""
    adapter = model / ADAPTER_FILE
    trained = [adapter] if adapter.is_file() else sorted((model / BACKBONE_FOLDER).glob("*.safetensors"))
    total = hashlib.sha256()
    for path in (*trained, model / HEAD_FILE):
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
