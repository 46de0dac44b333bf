"""JSON from outside: what is accepted, what is refused, and with which reason."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors.json_files import (
    JsonError,
    is_plain_name,
    object_or_none,
    parse_json,
    parse_object,
    read_object,
    read_record,
    record_or_none,
)


@dataclass(frozen=True)
class Example:
    """A record such as the manifests of checkpoints and builds."""

    version: int
    seconds: float
    settings: dict[str, object]
    files: dict[str, str] = field(default_factory=dict[str, str])


WHOLE: dict[str, Any] = {"version": 5, "seconds": 1.5, "settings": {"a": [1, None]}, "files": {"a.pt": "0f"}}


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}\r\n', {"a": 1}),
        ('{"a": "x\u2028\u0085\u2029y"}'.encode(), {"a": "x\u2028\u0085\u2029y"}),
        (rb'{"a": "\ud83c\udf4e"}', {"a": "\U0001f34e"}),
        (b"[18446744073709551615, -0.0, 1e308]", [2**64 - 1, -0.0, 1e308]),
        (b"null", None),
    ],
)
def test_json_is_read(content: bytes, value: object) -> None:
    assert parse_json(content) == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON: Expecting value"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1}{"b": 2}', "not JSON: Extra data, column 9"),
        (b'{"a": "\xff"}', r"not UTF-8 text \(byte 8\)"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
        ('{"a": 1}'.encode("utf-16-le"), "not JSON"),
        (b'{"a": "\x00"}', "not JSON: Invalid control character"),
        (b"\x00" * 64, "not JSON"),
        (b'{"a": NaN}', "must be finite, got NaN"),
        (b'{"a": -Infinity}', "must be finite, got -Infinity"),
        (b'{"a": 1e999}', "must be finite, got 1e999"),
        (b'{"a": ' + b"9" * 21 + b"}", "at most 20 digits, got 21"),
        (b"9" * 5000, "at most 20 digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' occurs twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 20_000 + b"]" * 20_000, "nested too deeply"),
        (rb'{"a": "\ud800 left"}', "half of a surrogate pair"),
        (rb'{"\uDFFF": 1}', "half of a surrogate pair"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_json_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(JsonError, match=reason):
        parse_json(content)


def test_own_files_may_hold_nan() -> None:
    assert repr(parse_json(b"[NaN, 1e999]", nan=True)) == "[nan, inf]"


@pytest.mark.parametrize(("content", "got"), [(b"[1]", "a list"), (b"3", "a number"), (b"null", "null")])
def test_what_is_no_object_is_refused(content: bytes, got: str) -> None:
    with pytest.raises(JsonError, match=f"must be a JSON object, got {got}"):
        parse_object(content)


def test_a_record_is_read_in_any_order_and_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(dict(reversed(WHOLE.items()))))
    assert read_record(str(path), Example) == Example(**WHOLE)
    path.write_text('{"version": 5, "seconds": NaN, "settings": {}}')
    assert read_record(str(path), Example).files == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(WHOLE)[:-20].encode(), "is damaged: it is not JSON"),
        (b"", "is damaged: it is not JSON"),
        (b"\xff\xfe", "is damaged: it is not UTF-8"),
        (b"[" * 100_000, "is damaged: it is nested too deeply"),
        (b"[]", "must be a JSON object, got a list"),
        (b"{}", "is not a Example: version"),
        (json.dumps({"apiVersion": "v1", "kind": "Pod"}).encode(), "unknown keys"),
        *(
            (json.dumps(WHOLE | {key: value}).encode(), f"is not a Example: {named}")
            for key, value, named in [
                ("version", "5", "version: Input should be a valid integer"),
                ("version", 5.5, "version"),
                ("version", True, "version"),
                ("version", None, "version"),
                ("seconds", "1", "seconds"),
                ("settings", [], "settings"),
                ("files", None, "files: Input should be an object"),
                ("files", [1], "files"),
                ("files", {"a.pt": 1}, r"files\.a\.pt: Input should be a valid string"),
                ("more", 1, r"unknown keys \['more'\]"),
            ]
        ),
    ],
    ids=lambda value: repr(value)[-30:],
)
def test_a_damaged_or_foreign_record_is_refused_by_name(
    content: bytes, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(JsonError, match=reason) as refused:
        read_record(str(path), Example)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
    assert record_or_none(str(path), Example) is None
    assert f"{path} is" in caplog.text and "it is passed over" in caplog.text


def test_an_absent_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_object(str(tmp_path / "absent.json"))
    with pytest.raises(JsonError, match="must be a file, got a folder"):
        read_object(str(tmp_path))
    assert object_or_none(str(tmp_path)) is object_or_none(str(tmp_path / "absent.json")) is None
    assert record_or_none(str(tmp_path / "absent.json"), Example) is None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "a\0"])
def test_a_path_is_no_plain_name(name: str) -> None:
    assert not is_plain_name(name)
    assert is_plain_name(f"rank-{len(name)}..pt")
