"""Prompts come from the scene grammar or from a file. Training and evaluation never share one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from conf import SettingsError, UserError, load
from pipelines.common.prompts import (
    check_prompts,
    draw_held_out_prompts,
    draw_training_prompts,
    evaluation_notice,
    read_prompts,
)


def write_rows(path: Path, *rows: Mapping[str, object]) -> Path:
    """Writes rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_a_file_become_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a cat"}\n\n{"text": "a dog", "relations": [["dog", "left of", "cat"]]}\n')
    first, second = read_prompts(path)
    assert (first.id, first.text, second.relations[0].relation) == ("1", "a cat", "left of")
    assert second.id == "3", "the number of its line"


def test_a_separator_inside_a_text_does_not_end_its_line(tmp_path: Path) -> None:
    texts = [f"a cup{separator}left of a plate" for separator in "\u2028\u2029\u0085\t"]
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [prompt.text for prompt in read_prompts(path)] == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a cat"}\n{"prompt": "a dog"}\n', r"prompts\.jsonl:2 must have a string as \"text\", got the keys"),
        (b'{"text": 7}\n', r"prompts\.jsonl:1 must have a string as \"text\", got 7: write one JSON"),
        (b"\n", r"prompts\.jsonl holds no prompts"),
        (b"", r"prompts\.jsonl holds no prompts"),
        (b"a cat\na dog\n", r"prompts\.jsonl:1 cannot be read, it is not JSON.* got 'a cat': write one JSON"),
        (b'{"text": "a cat"}\n{"text": "a d', r"prompts\.jsonl:2 cannot be read, it is not JSON"),
        (b'["a cat"]\n', r"prompts\.jsonl:1 cannot be read, it must be a JSON object, got a list"),
        (b'{"text": "a c\xe4t"}\n', r"prompts\.jsonl:1 cannot be read, it is not UTF-8"),
        (b'{"text": ""}\n', r"prompts\.jsonl:1: a prompt must not be blank"),
        (b'{"text": "  \\u200b"}\n', r"prompts\.jsonl:1: a prompt must not be blank"),
        (
            b'{"text": " \\u00a0"}\n',
            r"prompts\.jsonl:1: a prompt must not be blank, got 2 characters, none of them visible",
        ),
        (
            b'{"text": "' + b"x" * 4001 + b'"}\n',
            r"prompts\.jsonl:1: a prompt must have at most 4000 characters, got 4001",
        ),
        (rb'{"text": "\ud800 left"}', r"prompts\.jsonl:1 cannot be read, it holds half of a surrogate pair"),
        (rb'{"text": "a\u0000b"}', r"prompts\.jsonl:1: a prompt must be plain text, got a control character"),
        *(
            (b'{"text": "a cat", "relations": ' + relations + b"}", r"prompts\.jsonl:1 must have relations like")
            for relations in (
                b'"abc"',
                b'["abc"]',
                b"[[1, 2, 3]]",
                b'[["cat", "left of"]]',
                b'[["cat", "left of", ""]]',
                b"7",
                b'{"a": 1}',
                b'[["cat", "left of", "dog", "now"]]',
                b'[[["cat"], "left of", "dog"]]',
            )
        ),
        (b'{"text": "a cat", "id": [1]}', r"prompts\.jsonl:1 must have a string as \"id\", got \[1\]"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_file_without_prompts_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(path)
    with pytest.raises(SettingsError, match=rf"policy\.held_out_prompts: .*{message}"):
        check_prompts(load("scenes", [f"policy.held_out_prompts={path}"]))


def test_an_unreadable_file_is_refused_with_the_setting_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"policy\.prompts: .*none\.jsonl must be a file \(no such file\): .*docs"):
        check_prompts(load("scenes", [f"policy.prompts={tmp_path}/none.jsonl"]))
    with pytest.raises(SettingsError, match=r"policy\.prompts must name a file of prompts for flux\.model=black"):
        check_prompts(load("flux_dev", ["policy.prompts=''"]))


def test_a_file_is_shuffled_anew_for_each_pass(tmp_path: Path) -> None:
    """Three and a half passes over sixteen prompts."""
    texts = [f"a cat and {number} dogs" for number in range(16)]
    path = write_rows(tmp_path / "prompts.jsonl", *({"text": text} for text in texts))

    def drawn(seed: int) -> list[str]:
        overrides = ["policy.iterations=7", "policy.prompts_per_iteration=8", "policy.optimizer.steps_per_iteration=1"]
        settings = load("scenes", [f"policy.prompts={path}", f"policy.seed={seed}", *overrides])
        return [prompt.text for prompt in draw_training_prompts(settings.policy, settings.flux)]

    order = drawn(seed=0)
    passes = [order[first : first + 16] for first in (0, 16, 32)]
    assert len(order) == 56
    assert len(set(order[48:])) == 8
    assert all(sorted(one) == sorted(texts) for one in passes)
    assert len({tuple(one) for one in [*passes, texts]}) == 4, "two passes have the same order, or one has the file's"
    assert drawn(seed=0) == order != drawn(seed=1)


def test_grammar_prompts_of_training_are_not_held_out() -> None:
    settings = load("scenes")
    training = {prompt.text for prompt in draw_training_prompts(settings.policy, settings.flux)}
    held_out = draw_held_out_prompts(settings.policy, settings.flux, settings.evaluation.seed)
    assert len(held_out.short) == len(held_out.long) == settings.policy.evaluation.prompts // 2
    assert not training & {prompt.text for prompt in held_out.short + held_out.long}


@pytest.mark.parametrize(
    ("n_short", "n_long", "expected"),
    [
        (12, 0, (8, 0)),
        (0, 12, (0, 8)),
        (12, 12, (4, 4)),
        (12, 1, (7, 1)),
        (3, 12, (3, 5)),
        (3, 0, (3, 0)),
        (3, 2, (3, 2)),
    ],
)
def test_prompts_of_the_other_kind_are_used_if_a_file_has_too_few_of_one(
    n_short: int, n_long: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    relation = ["cat", "left of", "dog"]
    short = [{"text": f"short {number}"} for number in range(n_short)]
    long = [{"text": f"long {number}", "relations": [relation] * 2} for number in range(n_long)]
    path = write_rows(tmp_path / "held_out.jsonl", *short, *long)
    settings = load("scenes", [f"policy.held_out_prompts={path}", "policy.evaluation.prompts=8"])
    held_out = draw_held_out_prompts(settings.policy, settings.flux, 0)
    assert (len(held_out.short), len(held_out.long)) == expected
    assert len({prompt.text for prompt in (*held_out.short, *held_out.long)}) == sum(expected)


def test_a_run_without_held_out_prompts_gets_a_warning() -> None:
    notice = evaluation_notice(load("flux_dev"))
    assert "policy.evaluation.every=20" in notice
    assert "policy.held_out_prompts" in notice
    assert "\n" not in notice
    assert evaluation_notice(load("scenes")) == ""
    assert evaluation_notice(load("flux_dev", ["policy.held_out_prompts=mine.jsonl"])) == ""
    assert evaluation_notice(load("flux_dev", ["policy.evaluation.every=0"])) == ""
