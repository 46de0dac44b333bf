"""Rules that settings share: bounds declared beside a field, and the base class that checks them."""

from __future__ import annotations

import difflib
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, cast
from urllib.parse import urlsplit

from conf.errors import SettingsError
from conf.runtime_env import check_runtime_env

Dtype = Literal["float32", "bfloat16"]
"""Precision in which a model is loaded."""
DTYPE_BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2}
"""Bytes of a parameter."""


@dataclass(frozen=True)
class Bound:
    """The range that a number must lie in."""

    low: float = -math.inf
    high: float = math.inf
    low_excluded: bool = False
    high_excluded: bool = False
    whole_above_one: bool = False
    """Values above 1 must be whole numbers."""

    def __str__(self) -> str:
        """The rule in words, e.g. "at least 1"."""
        if math.isinf(self.high):
            return f"{'above' if self.low_excluded else 'at least'} {self.low:g}"
        left, right = "(" if self.low_excluded else "[", ")" if self.high_excluded else "]"
        return f"in {left}{self.low:g}, {self.high:g}{right}"

    def check(self, name: str, value: float) -> None:
        """Raises SettingsError if `value` is outside the range. NaN and infinity are outside every range."""
        above_low = value > self.low if self.low_excluded else value >= self.low
        below_high = value < self.high if self.high_excluded else value <= self.high
        if not math.isfinite(value):
            raise SettingsError(f"{name} must be a finite number {self}, got {value}")
        if not (above_low and below_high):
            raise SettingsError(f"{name} must be {self}, got {value}")
        if self.whole_above_one and value > 1 and value % 1:
            raise SettingsError(
                f"{name} must be a fraction of one GPU or a whole number of GPUs, got {value}: use {value // 1:g} or "
                f"{value // 1 + 1:g}"
            )


def at_least(minimum: float) -> Mapping[str, Bound]:
    """Field metadata: the value must be >= `minimum`."""
    return {"bound": Bound(low=minimum)}


def above(bound: float) -> Mapping[str, Bound]:
    """Field metadata: the value must be > `bound`."""
    return {"bound": Bound(low=bound, low_excluded=True)}


def between(low: float, high: float, *, open_ends: bool = False) -> Mapping[str, Bound]:
    """Field metadata: the value must lie in [low, high], or in (low, high) with `open_ends`."""
    return {"bound": Bound(low, high, open_ends, open_ends)}


def gpu_count() -> Mapping[str, Bound]:
    """Field metadata: a number of GPUs that Ray can reserve, i.e. none, a fraction of one, or whole ones."""
    return {"bound": Bound(low=0, whole_above_one=True)}


@dataclass(frozen=True)
class Section:
    """Base of every settings class: checks the bounds and the `Literal` choices of its fields."""

    section: ClassVar[str] = ""
    """Dotted name of the section in the settings, e.g. "policy.optimizer". Error messages start with it."""

    def __post_init__(self) -> None:
        """Raises SettingsError for the first field that breaks its rule. Subclasses add rules that join fields."""
        check_fields(self, self.key)

    def key(self, name: str) -> str:
        """Dotted key of the field `name`."""
        return f"{self.section}.{name}" if self.section else name


def check_fields(settings: Any, key: Callable[[str], str]) -> None:
    """Raises SettingsError for the first field of a dataclass that breaks the rule of its type, name or bound.

    `key`: name of a field -> its dotted key, which the message starts with.
    """
    for field in fields(settings):
        name, value = key(field.name), getattr(settings, field.name)
        choices = choices_of(type(settings), field.name)
        if choices:
            one_of(name, value, choices)
        bound = bound_of(field)
        if bound:
            bound.check(name, value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"{name} must be a finite number, got {value}")
        if field.name == "runtime_env":
            check_runtime_env(name, cast("Any", value))
        if field.name.endswith("_variable") and not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", str(value)):
            raise SettingsError(
                f"{name} must be the name of an environment variable, of letters, digits and _, got another text, not "
                f"shown because it may be the secret itself: export MY_TOKEN=…, and set {name}=MY_TOKEN"
            )


def check_url(name: str, url: str, example: str) -> None:
    """Raises SettingsError unless `url` is an HTTP address with a host and a port that exists, without a password."""
    try:
        parts = urlsplit(url)
        fits = parts.port != 0  # ValueError if it is no port at all
    except ValueError:
        parts, fits = urlsplit(""), False
    if parts.username is not None or parts.password is not None:
        raise SettingsError(
            f"{name} must not hold a user or a password, because settings are written to files, got one at the host "
            f"{parts.hostname}: leave it out, and name an environment variable with the token"
        )
    if not fits or not parts.hostname or not re.fullmatch(r"https?://[^\s/?#]+\S*", url):
        raise SettingsError(f"{name} must be like {example}, got {url!r}")


def bound_of(field: Field[Any]) -> Bound | None:
    """The bound that a dataclass field declares in its metadata."""
    return cast("Bound | None", field.metadata.get("bound"))


@cache
def type_hints(cls: type) -> dict[str, Any]:
    """Resolved annotations of a settings class, by field name."""
    return typing.get_type_hints(cls)


def choices_of(cls: type, name: str) -> tuple[object, ...]:
    """Allowed values of a field with a `Literal` type; empty for every other field."""
    hint = type_hints(cls)[name]
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def nearest(value: int, allowed: Iterable[int]) -> str:
    """The closest allowed number below `value` and the closest above it, as 'A or B' (or only the one that exists)."""
    numbers = sorted(allowed)
    below, beyond = [number for number in numbers if number < value], [number for number in numbers if number > value]
    return " or ".join(map(str, below[-1:] + beyond[:1]))


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises SettingsError, with the most similar allowed word, if `value` is not one of `allowed`."""
    if value not in allowed:
        choices = ", ".join(str(choice) for choice in allowed)
        raise SettingsError(f"{name} must be one of {choices}, got {value!r}{suggestion(str(value), allowed)}")


def suggestion(word: str, allowed: Sequence[object]) -> str:
    """': did you mean X?' if something in `allowed` looks like `word`, else ''."""
    near = difflib.get_close_matches(word, [str(choice) for choice in allowed], n=1)
    return f": did you mean {near[0]}?" if near else ""


def escaped(text: str) -> str:
    """A text for OmegaConf that stands for `text` itself, although OmegaConf reads ${name} as another setting."""
    return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text)
