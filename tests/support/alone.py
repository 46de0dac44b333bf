"""Runs a module of this project in a separate process, for tests that start their own Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_alone(module: str, *arguments: str) -> str:
    """Runs `python -m module arguments` in the project's root. Returns its output; fails if it fails."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
