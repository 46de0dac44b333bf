"""Checks that a published version is complete and unchanged: the digest of every data file, and the schema version."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import pyarrow.parquet as pq

from actors.files import exists, file_system, join, list_folder, read_file
from conf import UserError
from pipelines.common.map_files import map_files
from pipelines.common.paths import PUBLISHED_DATA, published_data
from pipelines.preferences.dataset.schema import SCHEMA_VERSION

CHECKSUMS = "SHA256SUMS"
"""File of a version's folder, with one line `<sha256>  <path>` for each file."""
_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def verify(version: str, log: Callable[[str], None]) -> None:
    """Reads the data of a version, a path or URI, once. `log` gets one line for each file.

    Raises UserError if there is no published version, or if a file is missing, added, damaged or of another schema
    version.
    """
    sums = join(version, CHECKSUMS)
    if not exists(sums):
        raise UserError(
            f"reward.pairs must be a published version, with {CHECKSUMS} next to {PUBLISHED_DATA}/, got {version}: set "
            "it to a folder that `spatialt2i preferences publish` wrote"
        )
    prefix, data = f"{PUBLISHED_DATA}/", published_data(version)
    expected = {path.removeprefix(prefix): digest for path, digest in read_sums(sums) if path.startswith(prefix)}
    found = {name for name in list_folder(data) if name.endswith(".parquet")}
    if not expected or found != expected.keys():
        differing = sorted(found ^ expected.keys())
        raise UserError(
            f"{version} must hold exactly the files that its {CHECKSUMS} lists, got these missing or added: "
            f"{differing}: download or publish it again"
        )
    names = sorted(expected)
    verified = map_files(lambda name: _verify_file(join(data, name), expected[name]), names)
    for number, _ in enumerate(verified, start=1):
        log(f"pairs  verified file {number}/{len(names)} of {version}")


def read_sums(location: str) -> list[tuple[str, str]]:
    """Path and SHA-256 of each file. Raises UserError if the file is not what `sha256sum` reads."""
    text = read_file(location).decode(errors="replace").removeprefix("\ufeff")
    sums: list[tuple[str, str]] = []
    for line in filter(str.strip, text.split("\n")):
        match = _SUM.fullmatch(line.removesuffix("\r"))
        if match is None:
            raise UserError(
                f"{location} must have lines `<sha256>  <path>`, got {line[:80]!r}: download or publish it again"
            )
        sums.append((match[2], match[1]))
    return sums


def _verify_file(location: str, expected: str) -> None:
    """Checks one parquet file. `expected` is its SHA-256."""
    if _digest(location) != expected:
        raise UserError(f"{location} differs from what was published: download it again")
    version = _schema_version(location)
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{location} must have rows of schema version {SCHEMA_VERSION}, got {version or 'none'}: publish the pairs "
            "again with this version of spatialt2i"
        )


def _digest(location: str) -> str:
    """SHA-256 of a file on any file system, read in blocks."""
    system, path = file_system(location)
    digest = hashlib.sha256()
    with system.open_input_stream(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _schema_version(location: str) -> str:
    system, path = file_system(location)
    metadata = pq.read_schema(path, filesystem=system).metadata or {}
    return metadata.get(b"schema_version", b"").decode()
