"""`spatialt2i doctor`: checks whether this machine is ready for a preset, and prints a fix for every failed check."""

from __future__ import annotations

from collections.abc import Iterator

from conf import Settings
from pipelines.common.terminal import coloured, mark, styled
from pipelines.operations.doctor.access import check_keys, check_ports
from pipelines.operations.doctor.benchmarks import check_benchmarks
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.gpus import check_gpus
from pipelines.operations.doctor.machine import check_packages, check_python
from pipelines.operations.doctor.models import check_models
from pipelines.operations.doctor.ray_address import check_ray
from pipelines.operations.doctor.stage import checks_for
from pipelines.operations.doctor.storage import check_storage


def command(settings: Settings) -> None:
    """Runs `spatialt2i doctor`. Raises SystemExit with exit code 1 if a check failed."""
    if not run_checks(settings):
        raise SystemExit(1)


def run_checks(settings: Settings) -> bool:
    """Prints one line for each check while it runs, and its fix if it failed. Returns whether all checks passed."""
    failed = 0
    for finding in findings(settings):
        print(coloured(f"{mark(finding.ok)} {finding.message}"), flush=True)
        if not finding.ok:
            failed += 1
            print(f"  fix: {finding.fix}", flush=True)
    if failed:
        print(styled(f"{failed} check{'s' if failed > 1 else ''} failed", "bad"))
    else:
        stage = "" if settings.doctor.stage == "all" else f"{settings.doctor.stage} of "
        print(styled(f"all checks passed: ready for {stage}{settings.preset}", "good"))
    return not failed


def findings(settings: Settings) -> Iterator[Finding]:
    """Runs all checks, the quick ones first. They change nothing, and start nothing on a cluster."""
    yield check_python()
    yield from check_packages()
    yield from check_keys(settings)
    yield from check_ports(settings)
    yield from check_storage(settings)
    yield from check_models(settings)
    if checks_for(settings, "benchmark"):
        yield from check_benchmarks(settings)
    if checks_for(settings, "policy"):  # whose roles it counts
        yield from check_gpus(settings)
    yield from check_ray(settings)
