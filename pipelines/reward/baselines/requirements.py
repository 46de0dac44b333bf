"""What the baselines need, checked before anything is started: after hours of training it would be found too late.

Imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.rewards.scorers import MAX_BILLIONS_ON_CPU, require_installed
from actors.services.keys import key_in
from conf import SettingsError
from conf.baselines import KIND_OF_SCORER, BaselinesSettings
from conf.settings import Settings
from pipelines.reward.baselines.own import require_own_reward
from pipelines.reward.baselines.registry import JUDGES, SCORERS


def require_baselines(names: Sequence[str], settings: Settings) -> None:
    """Raises SettingsError unless each baseline has its device, its packages, its key or its code."""
    cfg, own = settings.baselines, settings.own_rewards()
    require_device(names, cfg)
    for name in names:
        if name in own:
            require_own_reward(name, own[name])
        if not cfg.isolated and name in SCORERS:
            require_installed(KIND_OF_SCORER[name], "set baselines.isolated=true")
        if name in JUDGES:
            key_in(JUDGES[name].key_variable, f"the key of {name}")


def require_device(names: Sequence[str], cfg: BaselinesSettings) -> None:
    """Raises SettingsError if a scorer's published weights are too large for the CPU and `cfg` gives it no GPU."""
    for name in names:
        if name in SCORERS and not cfg.gpus and name not in cfg.models and SCORERS[name].billions > MAX_BILLIONS_ON_CPU:
            raise SettingsError(
                f"baselines.gpus is 0, but {name} has {SCORERS[name].billions:g} billion parameters and would need "
                f"minutes an image on a CPU: set baselines.gpus=1 baselines.cpus=8 baselines.threads=8, or name "
                f"smaller weights in baselines.models.{name}"
            )
