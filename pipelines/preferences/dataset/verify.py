"""Whether a published version is what its publisher wrote: every file of its data, and the form of its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pyarrow.parquet as pq

from actors.files import exists, file_system, join, list_folder, read_file
from pipelines.common.paths import DATA, data_of
from pipelines.preferences.dataset.schema import SCHEMA_VERSION

CHECKSUMS = "SHA256SUMS"
"""File of a version's folder with a line `<sha256>  <path>` for each file."""


def verify(version: str, log: Callable[[str], None]) -> None:
    """Reads a version's data once; `log` gets a line a file.

    Raises FileNotFoundError where there is no published version, ValueError where a file is missing, added, damaged or
    of another schema version.
    """
    sums = join(version, CHECKSUMS)
    if not exists(sums):
        raise FileNotFoundError(
            f"reward.pairs must be a published version, with {CHECKSUMS} beside {DATA}/, got {version}: name the "
            "folder that `spatialt2i preferences publish` wrote"
        )
    lines = [line.split("  ", 1) for line in read_file(sums).decode().splitlines()]
    wanted = {path.removeprefix(f"{DATA}/"): digest for digest, path in lines if path.startswith(f"{DATA}/")}
    there = {name for name in list_folder(data_of(version)) if name.endswith(".parquet")}
    if not wanted or there != wanted.keys():
        differing = sorted(there ^ wanted.keys())
        raise ValueError(f"{version} must hold the files that its {CHECKSUMS} names, and no others, got {differing}")
    for number, name in enumerate(sorted(wanted), start=1):
        location = join(data_of(version), name)
        if _digest(location) != wanted[name]:
            raise ValueError(f"{location} is not what was published: fetch it again")
        told = _schema_version(location)
        if told != SCHEMA_VERSION:
            raise ValueError(
                f"{location} must have rows of schema version {SCHEMA_VERSION}, got {told or 'none'}: publish the "
                "pairs again with this version of spatialt2i"
            )
        log(f"pairs  {number}/{len(wanted)} files of {version} are as they were published")


def _digest(location: str) -> str:
    system, path = file_system(location)
    digest = hashlib.sha256()
    with system.open_input_stream(path) as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _schema_version(location: str) -> str:
    system, path = file_system(location)
    metadata = pq.read_schema(path, filesystem=system).metadata or {}
    return metadata.get(b"schema_version", b"").decode()
