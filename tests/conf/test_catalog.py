"""The catalog of settings: docstrings, types, and the search for a setting that was meant."""

from __future__ import annotations

from dataclasses import is_dataclass

import pytest

from conf.catalog import catalog, docstrings, sections, similar
from conf.endpoints import SeedreamSettings


@pytest.mark.parametrize("key", list(catalog()))
def test_every_setting_has_a_docstring_that_is_a_sentence(key: str) -> None:
    meaning = catalog()[key].meaning
    assert meaning[:1].isupper() or (meaning[:1].islower() and ":" in meaning)
    assert meaning.endswith(".")


def test_every_section_is_documented_and_knows_its_own_name() -> None:
    for name, cls in sections().items():
        assert is_dataclass(cls) and cls.section == name
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")


def test_an_inherited_field_keeps_the_docstring_of_its_base() -> None:
    texts = docstrings(SeedreamSettings)
    assert texts["retries"].startswith("Retries of a call")
    assert texts["size"].startswith("Image size")


def test_types_are_shown_in_words() -> None:
    shown = {key: setting.type_name for key, setting in catalog().items()}
    assert shown["policy.sampling.transition"] == "flow_sde | cps"
    assert shown["policy.learner.zero_stage"] == "1 | 2 | 3"
    assert shown["flux.lora_targets"] == "list of str"
    assert shown["policy.optimizer.betas"] == "list of 2 numbers"
    assert shown["baselines.price_in"] == "mapping of str to float"
    assert (shown["policy.minutes"], shown["serving.http"]) == ("float", "bool")


def test_no_setting_is_named_by_a_retired_word() -> None:
    retired = {"painter", "painters", "picture", "rival", "rivals", "mix", "pool", "mend", "anchor", "money", "nodes"}
    assert [key for key in catalog() if retired & set(key.replace(".", "_").split("_"))] == []


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("policy.lr", ["policy.optimizer.lr"]),
        ("policy.checkpoint_dir", ["policy.checkpoint.dir"]),
        ("policy.learner_ranks", ["policy.learner.ranks"]),
        ("policy.topk", ["policy.algorithm.top_k"]),
        ("polcy.seed", ["policy.seed"]),
        ("rivals.names", ["baselines.names", "benchmark.names"]),
        ("policy.evaluate_every", ["policy.evaluation.every"]),
        ("policy.steps_per_iteration", ["policy.optimizer.steps_per_iteration"]),
        ("warmup-iterations", ["policy.optimizer.warmup_iterations"]),
        ("zzz", []),
    ],
)
def test_an_unknown_key_is_looked_up_among_all_settings(key: str, meant: list[str]) -> None:
    assert similar(key) == meant


def test_preferred_sections_win_if_several_settings_have_the_name() -> None:
    assert similar("lr") == ["reward.lr", "policy.optimizer.lr"]
    assert similar("lr", ["policy"]) == ["policy.optimizer.lr"]
    assert similar("loss", ["policy"]) == ["reward.loss"]
