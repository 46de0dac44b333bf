"""The packages that compute do not import Ray, so they run on a machine without it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, NoRay())
import actors.optim.torch_engine, actors.worker_setup, actors.types
import actors.policy.registry, actors.policy.sampler
import actors.grpo.advantages, actors.grpo.batch_std, actors.grpo.learner
import actors.spatialscore.model, actors.spatialscore.scorer, actors.spatialscore.losses
assert "ray" not in sys.modules
"""


def test_the_computation_imports_without_ray() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
