"""What several commands need: a folder, a cluster, a model, the key of a service. Imports neither torch nor Ray.

Every function raises UserError if it is missing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from conf import Settings, SettingsError, resolve
from conf.endpoints import EndpointSettings
from conf.flux import EMBEDDED
from pipelines.common.cluster_address import check_address, uses_private_cluster
from pipelines.common.disk_faults import require_writable
from pipelines.common.models import HUB_ID, check_model
from pipelines.common.paths import run_paths
from pipelines.common.reward_sources import check_reward_sources, reward_models, service_token
from pipelines.common.run_lookup import recorded_in


def require_run_folder(settings: Settings) -> None:
    """The run's folder can be written."""
    require_writable(run_paths(settings).root)


def require_cluster(settings: Settings) -> None:
    """The cluster at `ray_address` answers, if it is not a private one."""
    if not uses_private_cluster(settings) and settings.ray_address != "local":
        check_address(settings.ray_address)


def require_own_policy(settings: Settings) -> None:
    """The policy has the model, rank, layers and scale that the run recorded: its weights mean nothing in another one.

    Two models are compared by their names. A folder may hold any model, also the recorded one.
    """
    file = recorded_in(settings.run_dir)
    if file is None:
        return
    # keys of another version do not matter here
    then, now = resolve(recorded=file, unknown=[]).settings.flux, settings.flux
    named = all(model == EMBEDDED or HUB_ID.fullmatch(model) for model in (then.model, now.model))
    fields = (*(("model",) if named else ()), "lora_rank", "lora_alpha", "lora_targets")
    changed = [name for name in fields if getattr(then, name) != getattr(now, name)]
    if changed:
        listed = "; ".join(f"flux.{name} was {getattr(then, name)!r} and is {getattr(now, name)!r}" for name in changed)
        raise SettingsError(
            f"the policy of {settings.run_dir} belongs to the model, rank, layers and scale that it was trained with, "
            f"but {listed}: leave the preset and these settings out, so that those of the run count, or name another "
            "run_dir"
        )


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


def require_rewards(settings: Settings, without: Collection[str] = ()) -> None:
    """What the rewards of a run need from outside: models, keys and tokens, and your own code.

    `without`: kinds of rewards that are not used, if the run has them.
    """
    for model in reward_models(settings, without):
        require_model(settings, model.setting, model.location, model.file, model.revision)
    if settings.uses_reward("judge"):
        require_key(settings.judge)
    for name, term in settings.used_rewards().items():
        service_token(name, term)
    check_reward_sources(settings, without)
