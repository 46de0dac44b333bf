"""The reader of YAML files: nothing is executed, nothing from the environment is read, every mistake is one message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conf import SettingsError, dump, load
from conf.yaml_file import escape_interpolations, read_yaml

LAUGHS = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)]
)


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (b"", {}),
        (b"# comments only\n", {}),
        (b"---\n", {}),
        (b"\xef\xbb\xbfrun_dir: a\r\n", {"run_dir": "a"}),
        (b"a: 2026-11-29\nb: 1e-3\nc: !!str 5\n", {"a": "2026-11-29", "b": 0.001, "c": "5"}),
        (b"a: &x {b: 1}\nc: {<<: *x}\n", {"a": {"b": 1}, "c": {"b": 1}}),
        (
            b"a: ${policy.seed}\nb: x ${ run_dir } ${a.b[0].c}\n",
            {"a": "${policy.seed}", "b": "x ${ run_dir } ${a.b[0].c}"},
        ),
        (rb"a: \${oc.env:HOME}" + b"\n", {"a": r"\${oc.env:HOME}"}),
    ],
)
def test_a_file_of_settings_is_read(content: bytes, values: object, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    assert read_yaml(tmp_path / "mine.yaml", "preset mine") == values


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [\n", "is not valid YAML: .*line 2"),
        (b"a:\n\t- x\n", "is not valid YAML: .*line 2"),
        (b"a: b: c\n", "is not valid YAML: .*line 1"),
        (b"a: 'x\n", "is not valid YAML: .*line"),
        (b"a: *b\n", "undefined alias.*line 1"),
        (b"a: &a [*a]\n", "recursive aliases"),
        (LAUGHS.encode(), "aliases expand it to over 10000 values: write the values out"),
        (b"a: " + b"[" * 100_000, "nested over 20 levels deep, line 1"),
        (b"- " * 100_000, "nested over 20 levels deep"),
        (b"a: {" * 30, "nested over 20 levels deep"),
        (b"a: 1\n---\nb: 2\n", "one document, got a second one, line 2"),
        (b"x: 1\na: !!python/object/apply:os.system ['touch pwned']\n", "line 2: the tag !!python/.* is not allowed"),
        (b"a: !!binary aGk=\n", "line 1: the tag !!binary is not allowed"),
        (b"a: !Ref x\n", "line 1: the tag !Ref is not allowed"),
        (b"1: 2\n", "line 1: a key must be text, got '1': put it in quotes"),
        (b"a:\n  on: 2\n", "line 2: a key must be text, got 'on'"),
        (b"? [a]\n: 1\n", "line 1: a key must be text, got a sequence"),
        (b"a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "line 5: the key 'c' is set twice, first in line 3"),
        (b"- 1\n", "must hold a mapping of settings, not a list"),
        (b"abc\n", "must hold a mapping of settings, not a single value"),
        (b"a: \xff\n", r"is not UTF-8 text \(byte 4\)"),
        ("a: 1\n".encode("utf-16"), "is not UTF-8 text"),
        (b"a: \x00\n", r"holds the character U\+0000"),
        (b'a: "\\ud800"\n', "is not valid YAML"),
        (b"a: " + b"9" * 5000, "is not valid YAML"),
        (b"a: x\n" * 100_000, "must have at most 262144 bytes"),
        *(
            (b"x: 1\na: '" + text + b"'\n", r"line 2: .*must be the name of a setting.*environment variables")
            for text in (
                b"${oc.env:HOME}",
                b"x${oc.env:HOME,none}",
                b"${ oc.env : HOME }",
                b"${oc.${b}:HOME}",
                b"${oc.decode:1}",
                b"${oc.create:{}}",
                b"${f:}",
                b"${}",
                b"${a",
                b"${a b}",
                rb"\\${oc.env:HOME}",
                rb"\${b} ${oc.env:HOME}",
            )
        ),
        (b"a: [{b: '${oc.env:HOME}'}]\n", "line 1: .*must be the name of a setting"),
        (b"'${oc.env:HOME}': 1\n", "line 1: .*must be the name of a setting"),
        (b"a: |\n  ${oc.env:HO\n  ME}\n", "must be the name of a setting"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_every_other_file_is_one_message(
    content: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=reason) as refused:
        read_yaml(tmp_path / "mine.yaml", "preset mine.yaml")
    message = str(refused.value)
    assert message.startswith("preset mine.yaml") and "\n" not in message and len(message) < 300
    assert not (tmp_path / "pwned").exists()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name, reason in {
        "folder": "must be a file, got a folder",
        "device": "must be a file, got a device",
        "loop": "no preset file",
        "x" * 300: "no preset file",
        "absent": "no preset file '.*absent.yaml': name a YAML file that exists, or one of .*flux_dev, .*scenes",
    }.items():
        with pytest.raises(SettingsError, match=reason):
            load(str(tmp_path / f"{name}.yaml"))


def test_a_preset_cannot_carry_environment_variables_into_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "sk-secret")
    path = tmp_path / "foreign.yaml"
    for text in ("writer: {url: 'http://x/${oc.env:A_KEY}'}", "run_dir: ${oc.env:A_KEY}", "base: ${oc.env:A_KEY}"):
        path.write_text(text)
        with pytest.raises(SettingsError, match="environment variables") as refused:
            load(str(path))
        assert "sk-secret" not in str(refused.value)
    for override in ("run_dir=${oc.env:A_KEY}", "sample.text=['${oc.env:A_KEY}']", "serving.runtime_env.x=${oc.env:A}"):
        with pytest.raises(SettingsError, match=r"command line: .*environment variables"):
            load("scenes", [override])
    path.write_text("run_dir: runs/${preset}_${policy.seed}\npolicy: {seed: 7}\nreward: {seed: '${policy.seed}'}\n")
    settings = load(str(path))
    assert (settings.run_dir, settings.reward.seed) == ("runs/foreign_7", 7)


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", r"\${x}", r"\\${x}", "a\\", "${", "$", "{}", "x: [y] # 'z'", "№ \u2028"]
)
def test_recorded_settings_are_read_back_as_they_were(text: str, tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={escape_interpolations(str(tmp_path / text))}"])
    assert settings.run_dir == str(tmp_path / text)
    dump(settings, tmp_path / "settings.yaml")
    assert load(str(tmp_path / "settings.yaml")) == settings


def test_nesting_on_the_command_line_does_not_end_the_process() -> None:
    """YAML's reader in C recurses: 100,000 brackets are a segmentation fault in the process that parses them."""
    program = (
        "from conf import load\ntry: load('scenes', ['policy.seed=' + '['*100_000])\nexcept ValueError as e: print(e)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "policy.seed: cannot read" in answer.stdout and "nested over 20 levels deep" in answer.stdout
