"""`spatialt2i doctor`: is this machine ready for the preset? Every failure comes with its mend."""

from __future__ import annotations

from collections.abc import Iterator

from conf import Settings
from pipelines.operations.doctor.access import check_keys, check_ports
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.gpus import check_gpus
from pipelines.operations.doctor.machine import check_packages, check_python
from pipelines.operations.doctor.models import check_models
from pipelines.operations.doctor.ray_address import check_ray
from pipelines.operations.doctor.storage import check_storage


def command(settings: Settings) -> None:
    """`spatialt2i doctor`. Raises SystemExit(1) where something is missing."""
    if not examine(settings):
        raise SystemExit(1)


def examine(settings: Settings) -> bool:
    """Prints one line a check as it is made, and returns whether all passed."""
    failed = 0
    for finding in findings(settings):
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}", flush=True)
        if not finding.ok:
            failed += 1
            print(f"     {finding.fix}", flush=True)
    print(f"{failed} checks failed" if failed else f"ready for {settings.preset}")
    return not failed


def findings(settings: Settings) -> Iterator[Finding]:
    """All checks, the quick ones first. It changes nothing, and starts nothing on a cluster."""
    yield check_python()
    yield from check_packages()
    yield from check_keys(settings)
    yield from check_ports(settings)
    yield from check_storage(settings)
    yield from check_models(settings)
    yield from check_gpus(settings)
    yield from check_ray(settings)
