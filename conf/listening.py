"""Where a server listens: other machines may reach it only if its callers must send a token."""

from __future__ import annotations

from ipaddress import ip_address

from conf.errors import SettingsError


def require_token(section: str, host: str, token_variable: str) -> None:
    """Raises SettingsError if `host` answers other machines and no variable names a token. `section`: of both."""
    if not is_loopback(host) and not token_variable:
        raise SettingsError(
            f"{section}.host={host} answers other machines, so callers must send a token: set "
            f"{section}.token_variable to the name of an environment variable with one, or {section}.host=127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at `host`, an address or a name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host name
        return host == "localhost"
