"""The programs that a guide shows, for tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def write_programs(guide: str, folder: Path, *names: str) -> None:
    """Writes the Python blocks of a guide, in order, as files with these names."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / guide).read_text(), re.M | re.S)
    for name, block in zip(names, blocks, strict=True):
        (folder / name).write_text(block)
