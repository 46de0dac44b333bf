"""Compares NVIDIA's driver with the CUDA version that torch was built for: torch only says that it sees no GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

MIN_DRIVERS = {11: 450, 12: 525, 13: 580}
"""CUDA's major version -> the oldest branch of the driver that runs it, from NVIDIA's table of compatibility."""
VERSION_FILE = Path("/proc/driver/nvidia/version")


def installed_driver(version_file: Path = VERSION_FILE) -> str:
    """The version of NVIDIA's driver on this machine, e.g. 580.82.07; "" if there is none."""
    try:
        found = re.search(r"Module\b.*?\s(\d+\.\d+(?:\.\d+)?)\s", version_file.read_text())
    except OSError:
        found = None
    return found[1] if found else _ask_nvidia_smi()


def _ask_nvidia_smi() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = result.stdout.split() if result.returncode == 0 else []
    return lines[0] if lines else ""


def driver_problem(driver: str, cuda: str) -> str:
    """What is wrong with a driver for a version of CUDA such as 13.0; "" if nothing is, or one of them is unknown."""
    needed = MIN_DRIVERS.get(int(cuda.partition(".")[0]) if cuda[:1].isdigit() else 0)
    if not driver or needed is None or int(driver.partition(".")[0]) >= needed:
        return ""
    return f"NVIDIA's driver {driver} is too old for torch's CUDA {cuda}, which needs {needed} or newer"
