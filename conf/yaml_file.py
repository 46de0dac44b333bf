"""The one reader of YAML: presets, the recorded settings of a run, and values on the command line.

A file is UTF-8 text (a byte order mark is allowed) of at most MAX_BYTES with one mapping. Its keys are text and differ.
Values are plain: tags that make other objects are refused, nothing is ever executed, and the only interpolation is
`${section.key}`, the value of another setting. Resolvers such as `${oc.env:NAME}` are refused: a preset from somebody
else could carry environment variables, which hold secrets, into settings.yaml or the address of a service.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import SettingsError

MAX_BYTES = 2**18
MAX_DEPTH = 20
MAX_NODES = 10_000
"""Values in a file, aliases expanded."""

_PLAIN = ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge", "value")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in _PLAIN}
"""What plain text can be: the last three are `2026-11-29`, which OmegaConf reads as text, `<<` and `=`."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTERPOLATION = re.compile(r"(\\*)\$\{([^}]*)(\}?)")
_REFERENCE = re.compile(r"\.*[A-Za-z_][\w.-]*(\[[\w.-]+\][\w.-]*)*")


def read_yaml(path: Path, source: str) -> dict[str, Any]:
    """The mapping in a YAML file; empty for an empty file. Its interpolations are not resolved.

    Raises SettingsError, which starts with `source` and names line and fix where there is one, for everything else.
    """
    text = _read(path, source)
    try:
        _check_depth(text)
        root: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
        if root is not None and root.tag != "tag:yaml.org,2002:null":
            _check_nodes(root, source)
        loaded = OmegaConf.load(io.StringIO(text), max_yaml_expanded_nodes=MAX_NODES)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{source} is not valid YAML: {one_line(error)}") from error
    return cast("dict[str, Any]", OmegaConf.to_container(loaded, resolve=False))


def parse_value(text: str) -> Any:
    """What a text stands for in YAML. Raises YAMLError, OmegaConfBaseException or ValueError if that is nothing."""
    _check_depth(text)
    value = OmegaConf.from_dotlist([f"value={text}"])
    return cast("dict[str, Any]", OmegaConf.to_container(value, resolve=False))["value"]


def check_interpolations(value: object, name: str) -> None:
    """Raises SettingsError, which starts with `name`, if an interpolation in `value` is no reference to a setting."""
    for text in _texts(value):
        if wrong := _wrong_interpolation(text):
            raise SettingsError(f"{name}: {wrong}")


def escape_interpolations(value: Any) -> Any:
    """The value with every `${` in its texts escaped, so that it is read back as it is."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", value)
    if isinstance(value, Mapping):
        return {key: escape_interpolations(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, Sequence):
        return [escape_interpolations(item) for item in cast("Sequence[Any]", value)]
    return value


def one_line(error: BaseException) -> str:
    """An error's text on one line, without the details of the YAML library."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or error or type(error).__name__).splitlines()[0]
    if "expan" in problem:
        problem = f"aliases expand it to over {MAX_NODES} values: write the values out"
    if isinstance(error, yaml.reader.ReaderError):
        return f"it holds the character U+{_code(error.character):04X}, which YAML does not allow"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{problem}, line {mark.line + 1}, column {mark.column + 1}" if mark else problem


def _read(path: Path, source: str) -> str:
    try:
        if path.exists() and not path.is_file():
            raise SettingsError(f"{source} must be a file, got {'a folder' if path.is_dir() else 'a device or a pipe'}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{source} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{source} must have at most {MAX_BYTES} bytes: is it a file of settings?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{source} is not UTF-8 text (byte {error.start + 1}): save it as UTF-8") from error


def _check_depth(text: str) -> None:
    """Raises YAMLError for text that must not reach the constructor, whose recursion in C can end the process."""
    depth, documents = 0, 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise yaml.MarkedYAMLError(
                    problem="it must hold one document, got a second one", problem_mark=event.start_mark
                )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"it is nested over {MAX_DEPTH} levels deep", problem_mark=event.start_mark
            )


def _check_nodes(root: yaml.Node, source: str) -> None:
    """Raises SettingsError for tags, keys and interpolations that settings do not have."""
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else "single value"
        raise SettingsError(
            f"{source} must hold a mapping of settings, not a {kind}: write lines like `run_dir: runs/mine`"
        )
    seen: set[int] = set()
    waiting: list[yaml.Node] = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        place = f"{source}, line {node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, source)
            waiting += [part for item in node.value for part in item]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif wrong := _wrong_interpolation(node.value):
            raise SettingsError(f"{place}: {wrong}")
        if node.tag not in _TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise SettingsError(f"{place}: the tag {tag[:40]} is not allowed: write a plain value")


def _check_keys(node: yaml.MappingNode, source: str) -> None:
    first: dict[str, int] = {}
    for key, _ in node.value:
        place = f"{source}, line {key.start_mark.line + 1}"
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key, yaml.ScalarNode) or key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:value"):
            shown = f"{key.value!r:.40}" if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
            raise SettingsError(f"{place}: a key must be text, got {shown}: put it in quotes")
        if key.value in first:
            raise SettingsError(f"{place}: the key {key.value!r:.40} is set twice, first in line {first[key.value]}")
        first[key.value] = key.start_mark.line + 1


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[str, object]", value).items():
            yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in cast("Sequence[object]", value):
            yield from _texts(item)


def _wrong_interpolation(text: str) -> str:
    """What is wrong with the first interpolation of a text that is no reference; "" if there is none."""
    for backslashes, content, end in _INTERPOLATION.findall(text):
        if len(backslashes) % 2 == 0 and not (end and _REFERENCE.fullmatch(content.strip())):
            shown = " ".join(content.split())[:40]
            return (
                f"${{{shown}{end} must be the name of a setting, like ${{policy.seed}}: environment variables and "
                "other resolvers are not read. Write the value, or \\${ for the characters themselves"
            )
    return ""


def _code(character: object) -> int:
    return character if isinstance(character, int) else ord(str(character)[:1] or "\0")
