"""Files are written whole or not at all, at paths and at URIs."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from actors.files import join, write_file


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """In a process whose files may not grow beyond 64 KiB: the interrupted write is an OSError."""
    write_file(str(tmp_path / "state"), b"old")
    code = (
        "import resource, signal, sys; from actors.files import write_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (65536, {resource.RLIM_INFINITY}))\n"
        "try: write_file(sys.argv[1], bytes(2**20))\n"
        "except OSError as error: print('refused:', error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "refused:" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state").read_bytes() == b"old"


def test_a_uri_keeps_its_query() -> None:
    joined = join("s3://bucket/run?endpoint_override=host:1&scheme=http", "7")
    assert joined == "s3://bucket/run/7?endpoint_override=host:1&scheme=http"
    assert join("/runs/a", "7") == "/runs/a/7"
