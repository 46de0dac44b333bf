"""JSON lines: strict for a user's files, tolerant for logs of processes that were killed."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from actors import json_lines
from actors.json_lines import append_row, read_log, read_rows
from conf import UserError

FORM = 'write {"a": number}; see docs/policy.md'

ODD_BUT_VALID = [
    b'{"a": 1}\n{"a": 2}\n',
    b'{"a": 1}\n{"a": 2}',
    b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n',
    b'{"a": 1}\n\xef\xbb\xbf{"a": 2}\n',
    '\n{"a": 1, "t": "x\u2028y\u2029z\u0085"}\n \t\n\u00a0\n{"a": 2}\n\n'.encode(),
    b'{"a": 1, "t": "' + b"x" * 900_000 + b'"}\n{"a": 2}',
]

BAD_LINES = [
    (b'{"a": 3, "b', "not JSON"),
    (b"a cat on a mat", "not JSON"),
    (b"[1, 2]", "must be a JSON object, got a list"),
    (b'"text"', "must be a JSON object, got a text"),
    (b"null", "got null"),
    (b'{"a": NaN}', "must be finite"),
    (b'{"a": 1, "a": 2}', "occurs twice"),
    (b'{"a": "\xff"}', "not UTF-8"),
    (rb'{"a": "\ud800"}', "surrogate"),
    (b'{"a": ' + b"1" * 5000 + b"}", "digits"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a": "\x00"}', "control character"),
    (b"x" * (2**20 + 5), "at most 1048576 bytes"),
]


@pytest.mark.parametrize("content", ODD_BUT_VALID, ids=range(len(ODD_BUT_VALID)))
def test_lines_of_every_tool_are_read_alike(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    rows = list(read_rows(str(path), FORM))
    assert [row.values["a"] for row in rows] == read_log(path, lambda values: values["a"]) == [1, 2]
    assert rows[0].values.get("t", "x")[:6] in ("x", "x\u2028y\u2029z\u0085", "xxxxxx")
    assert rows[1].place == f"{path}:{rows[1].number}"


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=lambda value: repr(value)[:30])
def test_a_users_bad_line_is_named_with_rule_and_fix(line: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for ending in (b"\n", b""):
        path.write_bytes(b'{"a": 1}\n\n' + line + ending)
        with pytest.raises(UserError, match=reason) as refused:
            list(read_rows(str(path), FORM))
        message = str(refused.value)
        assert message.startswith(f"{path}:3 ") and message.endswith(FORM)
        assert "\n" not in message and len(message) < 400 + len(str(path))
        message.encode()


@pytest.mark.parametrize(
    ("name", "reason"), [("absent", "no such file"), (".", "it is a folder"), ("/dev/zero", "it is a device or a pipe")]
)
def test_a_location_without_a_file_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        list(read_rows(str(tmp_path / name), FORM))


@pytest.mark.parametrize(
    "line", [line for line, _ in BAD_LINES if b"NaN" not in line], ids=lambda line: repr(line)[:30]
)
def test_a_bad_line_of_a_log_is_skipped_counted_and_said_once(
    line: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 1}\n{"a": 2}\n')
    with caplog.at_level(logging.WARNING):
        assert read_log(path, lambda values: values["a"]) == read_log(path, lambda values: values["a"]) == [1, 2]
    (record,) = caplog.records
    assert "2 unreadable lines are skipped, the first is line 2" in record.getMessage()
    assert str(path) in record.getMessage()


def test_a_row_that_is_being_written_is_skipped_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert read_log(path, lambda values: values["a"]) == [1]
    assert read_log(tmp_path / "absent", str) == []
    assert not caplog.records


@pytest.mark.parametrize("left", [b"", b'{"a": 0}\n', b'{"a": 0}\n{"a": 9, "b', b'{"a": 0}\n{"a": 9', b"\xff"])
def test_half_a_line_of_a_killed_writer_does_not_swallow_the_next_row(left: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(left)
    for number in (1, 2):
        append_row(path, {"a": number, "loss": math.nan})
    rows: list[dict[str, Any]] = read_log(path, dict)
    assert [row for row in rows if row["a"]] == [{"a": 1, "loss": None}, {"a": 2, "loss": None}]


def test_a_line_is_never_held_whole_if_it_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 10)
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 35 + b'\n{"a": 22}\n{"a": 3}\n' + b"y" * 25)
    assert read_log(path, lambda values: values["a"]) == [1, 22, 3]
