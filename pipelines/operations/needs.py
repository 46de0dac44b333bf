"""What several commands need: a folder, a cluster, a model, the key of a service. Imports neither torch nor Ray.

Every function raises UserError if it is missing.
"""

from __future__ import annotations

from pathlib import Path

from conf import Settings, SettingsError
from conf.endpoints import EndpointSettings
from conf.flux import EMBEDDED
from pipelines.common.cluster_address import check_address, uses_private_cluster
from pipelines.common.disk_faults import require_writable
from pipelines.common.models import check_model
from pipelines.common.paths import run_paths
from pipelines.common.reward_sources import check_reward_sources, reward_models, service_token


def require_run_folder(settings: Settings) -> None:
    """The run's folder can be written."""
    require_writable(run_paths(settings).root)


def require_cluster(settings: Settings) -> None:
    """The cluster at `ray_address` answers, if it is not a private one."""
    if not uses_private_cluster(settings) and settings.ray_address != "local":
        check_address(settings.ray_address)


def require_model(settings: Settings, setting: str, location: str, first_file: str, revision: str = "") -> None:
    """The model at `location`, the value of `setting`, is there or can be downloaded: it has `first_file`.

    `revision`: see `check_location` of doctor.
    """
    check_model(settings, setting, location, first_file)
    if location == EMBEDDED or Path(location).is_dir() or not uses_private_cluster(settings):
        return
    from pipelines.operations.doctor.models import Hub, check_location

    finding = check_location(setting, location, "", first_file, Hub.from_environment(), revision)
    if not finding.ok:
        raise SettingsError(f"{finding.message}: {finding.fix}")


def require_key(endpoint: EndpointSettings) -> None:
    """The key of a service is set."""
    from actors.services.keys import key_of

    key_of(endpoint)


def require_rewards(settings: Settings, detector: bool = True) -> None:
    """What the rewards of a run need from outside: models, keys and tokens, and your own code.

    `detector`: whether that reward is used, if the run has it.
    """
    for model in reward_models(settings):
        if detector or model.setting != "detector.model":
            require_model(settings, model.setting, model.location, model.file, model.revision)
    if settings.uses_reward("judge"):
        require_key(settings.judge)
    for name, term in settings.used_rewards().items():
        service_token(name, term)
    check_reward_sources(settings)
