"""`--help` at every level, `config show` and `config describe`: what they print is what the settings say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conf import load, presets, resolve
from conf.catalog import catalog, settings_of
from conf.show import resolved_lines, settings_help
from pipelines.cli import VERBS, main


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_the_top_level_help_leads_to_every_other_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["--help"], capsys)
    assert text == printed([], capsys) == printed(["-h"], capsys)
    rows = [line.split("  ")[1] for line in text.splitlines() if re.match(r"  [a-z]", line)]
    assert len(rows) == sum(len(actions) for actions in VERBS.values())
    for row in rows:  # each shown command is one that has a help of its own
        assert f"usage: spatialt2i {row} " in printed([*row.split(), "--help"], capsys)


def test_the_help_of_a_verb_lists_its_actions_alone(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["policy", "--help"], capsys)
    assert text.startswith("usage: spatialt2i policy [ACTION]")
    assert re.findall(r"^  policy (\w+)", text, re.M) == ["train", "export", "sample"]
    assert "reward train" not in text


def test_the_help_of_an_action_shows_its_settings_with_default_type_and_meaning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(["policy", "train", "flux_dev", "--help"], capsys)
    shown = re.findall(r"^  ([a-z0-9_.]+)=", text, re.M)
    sections = VERBS["policy"]["train"].sections
    expected = {setting.key for section in (*sections, "") for setting in settings_of(section)}
    assert set(shown) == expected and len(shown) == len(expected)
    assert "  policy.optimizer.lr=0.003\n      (float, above 0) Learning rate after the warm-up." in text
    assert "  policy.sampling.transition=flow_sde\n      (flow_sde | cps) Stochastic step" in text
    assert "  policy.prompts=''\n" in text and "  policy.optimizer.betas=[0.9, 0.99]\n" in text


def test_the_usage_of_an_action_shows_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["reward", "score", "--help"], capsys)
    assert text.startswith("usage: spatialt2i reward score PROMPTS.jsonl IMAGES [--out VALUE] [PRESET]")
    assert "Implies scenes run_dir=runs/demo." in printed(["demo", "--help"], capsys)
    assert printed(["submit", "--help"], capsys).startswith("usage: spatialt2i submit VERB [ACTION]")


def test_a_shown_default_is_one_that_the_command_line_takes() -> None:
    text = settings_help(["policy", "flux", "serving", ""])
    defaults = re.findall(r"^  ([a-z_.]+=.*)$", text, re.M)
    joined = [re.sub(r"''$", "", line) for line in defaults if line.count("[") == line.count("]")]
    assert len(joined) > 90
    assert load("scenes", joined) == load("scenes")


def test_config_show_names_the_source_of_every_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["config", "show", "flux_dev_8gpu", "policy.optimizer.lr=1e-3"], capsys)
    values = [line for line in text.splitlines() if not line.endswith(":")]
    assert len(values) == len(catalog())
    sources = {re.split(r" +# ", line.strip())[0]: re.split(r" +# ", line)[1] for line in values}
    assert sources["lr: 0.001"] == "command line"
    assert sources["ranks: 8"] == "preset flux_dev_8gpu"
    assert sources["top_k: 6"] == "preset flux_dev"
    assert sources["multi_relation_fraction: 0.4"] == "default"


def test_config_show_can_be_limited_to_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["config", "show", "flux_dev", "policy.optimizer"], capsys)
    assert text.splitlines()[:2] == ["policy:", "  optimizer:"]
    assert len(text.splitlines()) == 2 + len(settings_of("policy.optimizer"))
    named_like_a_preset = printed(["config", "show", "flux_dev", "qwen_image"], capsys)
    assert re.findall(r"^\w+:", named_like_a_preset, re.M) == ["qwen_image:"]
    assert printed(["config", "show", "run_dir"], capsys).startswith("run_dir: runs/scenes")


@pytest.mark.parametrize("preset", presets())
def test_what_config_show_prints_is_a_preset_of_equal_settings(preset: str, tmp_path: Path) -> None:
    overrides = ["sample.text=a: 'b' # c", "serving.runtime_env.env_vars.A='1'", "policy.optimizer.lr=1e-7"]
    resolved = resolve(preset, overrides)
    (tmp_path / "shown.yaml").write_text("\n".join(resolved_lines(resolved)))
    assert load(str(tmp_path / "shown.yaml")) == resolved.settings


def test_config_describe_explains_a_section_or_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    described = printed(["config", "describe", "rewards"], capsys)
    assert described.startswith("rewards: The rewards by name.")
    assert "  rewards={spatialscore: 1.0}\n" in described and "  rewards.NAME.weight=0.0\n" in described
    one = printed(["config", "describe", "policy.algorithm.top_k"], capsys)
    assert one.startswith(
        "  policy.algorithm.top_k=6\n      (int, at least 0) Train on the best k and the worst k images"
    )
    assert one.count("\n") == 2
    everything = printed(["config", "describe"], capsys)
    assert set(re.findall(r"^  ([a-z0-9_.]+)=", everything, re.M)) == set(catalog())
