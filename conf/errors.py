"""Exceptions for mistakes that a user can correct. The command line prints their message and exits with code 2."""

from __future__ import annotations


class UserError(Exception):
    """The user's input is wrong or missing: a setting, a file, an argument, an environment variable.

    Raise it (or a subclass) only if the message alone tells the user what to change. `spatialt2i` then prints the
    message without a traceback and exits with code 2. Every other exception is a fault of the program or of the
    machine and keeps its traceback.
    """


class SettingsError(UserError, ValueError):
    """A setting is unknown, has the wrong type or is out of range. The message tells how to fix it."""
