"""What exists in the scenes world only, because it needs the exact checker: rules that concern several settings.

They are checked before a command is imported, and again by the work itself. Nothing here imports torch or Ray.
"""

from __future__ import annotations

from conf import Settings, SettingsError
from conf.flux import EMBEDDED


def check_generated_pairs(settings: Settings) -> None:
    """Raises SettingsError if the base policy should generate scenes but is not the embedded one."""
    fraction = settings.preferences.generated_fraction
    if fraction and settings.flux.model != EMBEDDED:
        raise SettingsError(
            f"preferences.generated_fraction={fraction} needs flux.model={EMBEDDED}, because only the scenes world can "
            f"check generated pairs, got flux.model={settings.flux.model}: set preferences.generated_fraction=0"
        )


def check_rules_reward(settings: Settings) -> None:
    """Raises SettingsError if the rules should reward images of another model than the embedded one."""
    if settings.uses_reward("rules") and settings.flux.model != EMBEDDED:
        raise SettingsError(
            "rewards.rules can check images of the scenes world only, i.e. flux.model=embedded, got "
            f"{settings.flux.model}: set rewards.rules=0"
        )


def check_ablation(settings: Settings) -> None:
    """Raises SettingsError if an ablation should run with another model than the embedded one."""
    if settings.flux.model != EMBEDDED:
        raise SettingsError(
            f"an ablation needs flux.model={EMBEDDED}, got {settings.flux.model}, because the exact checker that "
            "judges the variants exists in the scenes world only"
        )
