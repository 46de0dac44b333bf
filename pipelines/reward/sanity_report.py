"""The result of the sanity checks in the run directory, and the rule that only a checked model may train a policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import write_file
from actors.json_files import record_or_none
from actors.spatialscore.config import ADAPTER_FILE, BACKBONE_FOLDER, HEAD_FILE
from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import run_paths, spatialscore_folder


@dataclass(frozen=True)
class SanityCheck:
    """The outcome of one check."""

    name: str
    passed: bool
    value: float
    requirement: str
    if_failed: str  # what a failure means, and how to fix it
    finding: str = ""  # what was measured, as a sentence
    excuse: str = ""  # why a failure is a warning only; "" if it counts

    @property
    def blocks(self) -> bool:
        """Whether the model may not train a policy because of this check."""
        return not self.passed and not self.excuse


@dataclass(frozen=True)
class SanityReport:
    """The content of the file."""

    weights: str  # digest of the weights that were checked
    checks: list[SanityCheck]


def write_sanity_report(settings: Settings, checks: Sequence[SanityCheck]) -> None:
    """Writes the checks, with the digest of the weights that were checked."""
    report = SanityReport(weights_digest(spatialscore_folder(settings)), list(checks))
    write_file(str(run_paths(settings).sanity_checks), json.dumps(asdict(report), indent=2).encode())


def require_passed(settings: Settings) -> None:
    """Raises UserError, with the fix, unless the run's SpatialScore has passed all sanity checks that count.

    The report may be in this run, or next to the model if `serving.model` names the model of another run. It counts
    only for the weights that were checked. With `serving.skip_sanity_checks` nothing is required.
    """
    if settings.serving.skip_sanity_checks:
        return
    model = spatialscore_folder(settings)
    report = run_paths(settings).sanity_checks
    checks = _read_checks(report, model) or _read_checks(model.parent / report.name, model)
    skip = "or set serving.skip_sanity_checks=true to train on it nevertheless"
    if not checks:
        raise UserError(
            f"the sanity checks of the SpatialScore at {model} were not run: run `spatialt2i reward check`, {skip}"
        )
    if failed := [check.name for check in checks if check.blocks]:
        raise UserError(
            f"the SpatialScore at {model} failed sanity checks: {', '.join(failed)}. `spatialt2i reward check` "
            f"explains each failure; fix it, {skip}"
        )


def _read_checks(report: Path, model: Path) -> tuple[SanityCheck, ...]:
    """The checks in a report if they were made on the model's weights; else none."""
    content = record_or_none(str(report), SanityReport)
    return tuple(content.checks) if content and content.weights == weights_digest(model) else ()


def weights_digest(model: Path) -> str:
    """SHA-256 of the trained weights: adapter and head, or merged backbone and head."""
    adapter = model / ADAPTER_FILE
    trained = [adapter] if adapter.is_file() else sorted((model / BACKBONE_FOLDER).glob("*.safetensors"))
    total = hashlib.sha256()
    for path in (*trained, model / HEAD_FILE):
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
