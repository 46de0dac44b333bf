"""`spatialt2i doctor`: is this machine ready for the preset? Every failure comes with its mend."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conf import Settings
from conf.flux import EMBEDDED

PACKAGES = ("torch", "ray", "transformers", "peft", "diffusers", "deepspeed", "omegaconf", "pyarrow", "openai")


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and what to do where it is not good."""

    ok: bool
    what: str
    mend: str = ""


def command(settings: Settings) -> None:
    """`spatialt2i doctor`. Raises SystemExit(1) where something is missing."""
    if not examine(settings):
        raise SystemExit(1)


def examine(settings: Settings) -> bool:
    """Prints one line a check and returns whether all passed."""
    findings = list(check_machine(settings))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}" + ("" if finding.ok else f"; {finding.mend}"))
    return all(finding.ok for finding in findings)


def check_machine(settings: Settings) -> Iterator[Finding]:
    """Python, packages, accelerators, models and storage, in that order."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= (3, 11), f"Python {version}", "install Python 3.11 or newer")
    yield from _packages()
    yield from _accelerators(settings)
    yield _model("flux", settings.flux.model)
    yield _model("qwen2_5_vl", settings.spatialscore.model)
    yield _storage(Path(settings.run_dir))


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(False, f"{name} is not installed", "run `make setup`")


def _accelerators(settings: Settings) -> Iterator[Finding]:
    import torch

    wanted = settings.policy.rollout_gpus + settings.policy.learner_gpus + settings.pool.gpus
    have = torch.cuda.device_count()
    yield Finding(
        wanted == 0 or have > 0 or settings.ray_address != "local",
        f"{os.cpu_count()} CPUs, {have} GPUs here; Ray address {settings.ray_address}",
        "this preset reserves GPUs: run it on a GPU machine, or set ray_address to your cluster",
    )


def _model(shipped: str, location: str) -> Finding:
    from pipelines.scenes import CHECKPOINTS

    if location == EMBEDDED:
        return Finding((CHECKPOINTS / shipped).is_dir(), f"shipped checkpoint {shipped}", "spatialt2i scenes pretrain")
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", location) is not None
    ok = Path(location).is_dir() or is_hub_id
    how = "directory" if Path(location).is_dir() else "hub id, fetched at run time"
    return Finding(ok, f"model {location} ({how})", "name a directory or a hub id such as owner/model")


def _storage(run_dir: Path) -> Finding:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run_dir, delete=False) as file:
            file.write(b"x")
        renamed = Path(file.name).with_suffix(".renamed")
        Path(file.name).replace(renamed)
        renamed.unlink()
    except OSError as error:
        return Finding(False, f"cannot write and rename in {run_dir}: {error}", "set run_dir to a writable folder")
    return Finding(True, f"{run_dir} takes files")
