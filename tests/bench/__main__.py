"""`make bench`: every bench_*.py of this folder, one after the other."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")

for path in sorted(Path(__file__).parent.glob("bench_*.py")):
    importlib.import_module(f"tests.bench.{path.stem}").main()
