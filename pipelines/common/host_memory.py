"""Host memory: how much models need, how much this process may take, and a refusal before it loads too large ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from actors.json_files import read_object
from conf import UserError

GB = 10**9
PROCESS = int(0.9 * GB)
"""Python, torch, transformers and diffusers, before they load a model. Measured."""
_STEMS = ("model", "diffusion_pytorch_model")
_CGROUPS = {
    "memory": ("memory/", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),  # version 1
    "": ("", "memory.max", "memory.current", ""),  # version 2
}
"""Controller in /proc/self/cgroup -> its folder, its files, and what its statistics begin with."""


@dataclass(frozen=True)
class StoredWeights:
    """Parameters of one model on the disk, by the headers of its files."""

    parameters: int
    largest: int
    """Parameters of its largest tensor."""
    dtypes: frozenset[str]
    """As safetensors names them: F32, BF16, …"""


def downloaded(model: str) -> Path:
    """The folder of a model in the format of transformers: `model` itself, or the copy of a hub id in the cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.txt"]))


def stored_weights(folder: Path, without: Sequence[str] = ()) -> StoredWeights:
    """The weights in a folder that `save_pretrained` wrote: none if they are no safetensors.

    `without`: parts of the names of tensors that do not count.
    """
    counts: list[int] = []
    dtypes: set[str] = set()
    for file in _weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                if any(part in name for part in without):
                    continue
                part = tensors.get_slice(name)
                counts.append(math.prod(part.get_shape()))
                dtypes.add(part.get_dtype())
    return StoredWeights(sum(counts), max(counts, default=0), frozenset(dtypes))


def _weight_files(folder: Path) -> list[Path]:
    """A repository may hold other files: variants, and the model in another layout."""
    for stem in _STEMS:
        if (single := folder / f"{stem}.safetensors").is_file():
            return [single]
        if (index := folder / f"{stem}.safetensors.index.json").is_file():
            return sorted({folder / name for name in read_object(str(index))["weight_map"].values()})
    return []


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may hold in all, by the machine and by the limits of its cgroups. None if unknown.

    Pages of files count as free, because the kernel drops them when memory is needed.
    """
    try:
        machine = re.search(r"MemAvailable:\s+(\d+) kB", (proc / "meminfo").read_text())
        own = re.search(r"RssAnon:\s+(\d+) kB", (proc / "self" / "status").read_text())
        groups = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return None
    if machine is None or own is None:
        return None
    return 1024 * int(own[1]) + min([1024 * int(machine[1]), *_left_in_cgroups(cgroups, groups)])


def _left_in_cgroups(root: Path, own: Sequence[str]) -> Iterator[int]:
    """Of the process's cgroup and of those above it, whose limits hold, too."""
    for line in own:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in _CGROUPS:
                continue
            prefix, limit_file, usage_file, statistics = _CGROUPS[controller]
            inner = Path(path.lstrip("/"))
            for each in {inner, *inner.parents}:
                folder = root / prefix / each
                try:
                    limit, usage = (folder / limit_file).read_text(), int((folder / usage_file).read_text())
                    lines = (folder / "memory.stat").read_text()
                except OSError:  # not a group with limits, or above what a container sees
                    continue
                cached = re.findall(rf"^{statistics}(?:in)?active_file (\d+)$", lines, re.MULTILINE)
                if limit.strip() != "max":
                    yield int(limit) - usage + sum(map(int, cached))


def require_memory(what: str, need: int, fix: str) -> None:
    """Raises UserError if this process may not hold `need` bytes, which `what` takes. `fix`: another way out."""
    available = available_memory()
    if available is not None and available < need:
        raise UserError(
            f"{what} needs {need / GB:.1f} GB of memory, but this process can have {available / GB:.1f} GB: run it on "
            f"a machine with more memory, or {fix}"
        )
