"""What an import costs: the modules that come with it."""

from __future__ import annotations

import subprocess
import sys


def imported(*modules: str) -> set[str]:
    """The names of all modules of a new process that imports these."""
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
