"""Checks the published files of the benchmarks, if `benchmark.data` names a folder for them, and GenEval's models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from conf import Settings, UserError
from pipelines.benchmark.checks import problems, uses_detector
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.models import Hub, check_location

FIX = "run `spatialt2i benchmark fetch`; docs/benchmarks.md says what to do by hand"


def check_benchmarks(settings: Settings, hub: Hub | None = None) -> Iterator[Finding]:
    """Compares the files with the published checksums. Nothing is checked while `benchmark.data` is empty."""
    cfg = settings.benchmark
    if not cfg.data:
        return
    if not Path(cfg.data).is_dir():
        yield Finding(False, f"benchmark.data={cfg.data}: there is no such folder", FIX)
        return
    try:
        found = problems(settings)
    except UserError as error:
        yield Finding(False, f"benchmark.data={cfg.data}: {error}", FIX)
        return
    for name in cfg.names:
        texts = [problem.text for named, problem in found if named == name]
        if texts:
            yield Finding(False, f"benchmark {name}: {texts[0]}", FIX)
        else:
            yield Finding(True, f"benchmark {name}: its files are the published ones")
    if uses_detector(settings):
        hub = hub or Hub.from_environment()
        yield check_location("geneval.detector", settings.geneval.detector, "", "config.json", hub)
        yield check_location("geneval.clip", settings.geneval.clip, "", "config.json", hub)
