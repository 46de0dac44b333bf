"""The keys of services, from the environment of this process. Needs no client, so a missing key is found at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from conf.endpoints import EndpointSettings
from conf.errors import SettingsError


@dataclass(frozen=True)
class Key:
    """A secret key. Its value is not part of its repr."""

    value: str = field(repr=False)


def key_of(settings: EndpointSettings) -> Key:
    """The endpoint's key from this process's environment.

    Pass it on as an argument, not in a runtime environment: Ray writes runtime environments to its logs.
    Raises SettingsError, naming the variable, if it is not set.
    """
    return key_in(settings.key_variable, f"the key of {settings.section}")


def key_in(variable: str, description: str) -> Key:
    """The key in the environment variable `variable`.

    White space around it, such as the last newline of a file of secrets, is not part of it. Raises SettingsError if it
    is not set or cannot be sent in a header. The message names the variable and contains `description`.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise SettingsError(f"{description} is read from ${variable}, which is not set: export {variable}=…")
    if not all("!" <= character <= "~" for character in value):
        raise SettingsError(f"{description} in ${variable} must be printable ASCII characters without spaces: check it")
    return Key(value)
