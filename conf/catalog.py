"""Every setting by its dotted key: type, default, rule and meaning, read from the settings classes and their source."""

from __future__ import annotations

import ast
import difflib
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, cast

from conf.rewards import RewardTerm
from conf.rules import Section, bound_of, choices_of, type_hints
from conf.settings import Settings

REWARDS = "rewards"
"""The setting that is a mapping of a name to a section."""


@dataclass(frozen=True)
class Setting:
    """One setting, i.e. a leaf of `Settings`."""

    key: str
    """Dotted key, e.g. "policy.optimizer.lr"."""
    type: Any
    """Resolved annotation."""
    choices: tuple[object, ...]
    """Allowed values, if the type is a `Literal`."""
    default: Any
    rule: str
    """Bound in words, e.g. "at least 1"; may be empty."""
    meaning: str
    """Docstring of the field."""

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return typing.get_origin(self.type) is tuple

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a mapping with free keys."""
        return typing.get_origin(self.type) is dict

    @property
    def type_name(self) -> str:
        """The type in words, e.g. "int", "flow_sde | cps" or "list of str"."""
        if self.choices:
            return " | ".join(str(choice) for choice in self.choices if choice != "")
        arguments = [getattr(argument, "__name__", str(argument)) for argument in typing.get_args(self.type)]
        if self.is_list:
            return f"list of {arguments[0]}" if arguments[-1] == "Ellipsis" else f"list of {len(arguments)} numbers"
        if self.key == REWARDS:
            return "mapping of a name to a reward"
        if isinstance(self.type, UnionType):
            return " or ".join("null" if part is type(None) else part.__name__ for part in typing.get_args(self.type))
        return f"mapping of str to {arguments[1]}" if self.is_mapping else cast(str, self.type.__name__)


@cache
def catalog() -> Mapping[str, Setting]:
    """All settings by dotted key, in the order of the classes."""
    return {setting.key: setting for setting in _walk(Settings, "")}


@cache
def sections() -> Mapping[str, type]:
    """All section classes by dotted name, e.g. "policy" and "policy.optimizer"."""
    return dict(_sections(Settings, ""))


@cache
def reward_fields() -> Mapping[str, Setting]:
    """The settings of a reward by their name, e.g. "weight"."""
    return {setting.key: setting for setting in _walk(RewardTerm, "")}


def settings_of(section: str) -> list[Setting]:
    """The settings of a section, including those of the sections inside it. "" gives the settings of no section."""
    if not section:
        return [setting for key, setting in catalog().items() if "." not in key and key not in sections()]
    return [setting for key, setting in catalog().items() if key == section or key.startswith(f"{section}.")]


def _walk(cls: type, prefix: str) -> Iterator[Setting]:
    meanings, hints = docstrings(cls), type_hints(cls)
    for field in fields(cls):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if _is_section(hint):
            yield from _walk(hint, f"{key}.")
        else:
            bound = bound_of(field)
            rule, choices = "" if bound is None else str(bound), choices_of(cls, field.name)
            yield Setting(key, hint, choices, _default(field), rule, meanings.get(field.name, ""))


def _sections(cls: type[Section], prefix: str) -> Iterator[tuple[str, type]]:
    for name, hint in type_hints(cls).items():
        if f"{prefix}{name}" == REWARDS:
            yield name, RewardTerm
        elif _is_section(hint):
            yield f"{prefix}{name}", hint
            yield from _sections(hint, f"{prefix}{name}.")


def _is_section(hint: object) -> typing.TypeGuard[type[Section]]:
    return isinstance(hint, type) and issubclass(hint, Section)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def docstrings(cls: type) -> dict[str, str]:
    """Field name -> the string literal below the field, for a class and its bases. Line breaks become spaces."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.split(".")[0] == "conf":
            found |= _module_docstrings(base.__module__).get(base.__name__, {})
    return found


@cache
def _module_docstrings(module: str) -> dict[str, dict[str, str]]:
    """Class name -> field name -> docstring, from the source of a module."""
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            texts = found.setdefault(node.name, {})
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
                    text = _string(after)
                    if text:
                        texts[before.target.id] = " ".join(text.split())
    return found


def _string(node: ast.stmt) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return cast(str, node.value.value) if is_text else ""  # pyright: ignore


def similar(key: str, prefer: Sequence[str] = ()) -> list[str]:
    """Keys of the settings that `key` may have meant; empty if nothing looks like it. Looks over all settings.

    A section in `key` limits the first search to that section. Without one, the same last name anywhere wins over a
    similar name, and `prefer` names the sections that win if several settings have the same last name.
    """
    words = key.lower().replace("-", "_").strip(".").split(".")
    known = list(catalog())
    tops = sorted({name.split(".")[0] for name in known})
    if len(words) > 1 and words[0] not in tops:
        words[:1] = difflib.get_close_matches(words[0], tops, n=1, cutoff=0.75) or words[:1]
    text, last = ".".join(words), words[-1]
    if len(words) > 1:
        inside = [name for name in known if name.startswith(f"{words[0]}.")]
        found = _same_name(last, inside) or _similar_name(text, inside)
    else:
        inside = [name for name in known if name.split(".")[0] in prefer]
        found = _same_name(last, inside)
    return found or _same_name(last, known) or _similar_name(text, inside) or _similar_name(text, known)


def _same_name(last: str, names: Sequence[str]) -> list[str]:
    """Names whose last part is `last`."""
    return [name for name in names if name.split(".")[-1] == last]


def _similar_name(text: str, names: Sequence[str]) -> list[str]:
    """Names with the words of `text` in another grouping (policy.checkpoint_dir), or else of similar spelling."""
    flat = {name.replace(".", "_"): name for name in names}
    spelt, last = text.replace(".", "_"), text.rsplit(".", maxsplit=1)[-1]
    regrouped = [name for form, name in flat.items() if form == spelt or form.endswith(f"_{last}")]
    if regrouped:
        return regrouped
    near = difflib.get_close_matches(spelt, list(flat), n=1, cutoff=0.75)
    if near:
        return [flat[near[0]]]
    near = difflib.get_close_matches(last, sorted({name.split(".")[-1] for name in names}), n=1, cutoff=0.75)
    return _same_name(near[0], names) if near else []


def did_you_mean(key: str) -> str:
    """': did you mean A or B?' for the settings that look like `key`, else ''."""
    names = similar(key)
    return f": did you mean {' or '.join(names[:4])}?" if names else ""
