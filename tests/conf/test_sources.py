"""Where values and errors come from: the default, a preset file, or the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.runtime_env import RuntimeEnv

from conf import SettingsError, load, resolve
from conf.runtime_env import PUBLIC_KEYS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "word": b"abc\n",
        "list": b"- 1\n- 2\n",
        "number": b"3\n",
        "syntax": b"policy: [\n",
        "binary": b"\xff\xfe\x00",
        "twice": b"policy: {seed: 1}\npolicy: {seed: 2}\n",
        "grammar": b'run_dir: "${oops"\n',
        "loop_a": b"base: loop_b.yaml\n",
        "loop_b": b"base: loop_a.yaml\n",
        "self": b"base: self.yaml\n",
        "lost": b"base: flux_dv\n",
        "lost_file": b"base: nowhere.yaml\n",
        "base_list": b"base: [flux_dev]\n",
        "top_k": b"base: flux_dev\npolicy: {algorithm: {top_k: 13}}\n",
        "above_top_k": b"base: top_k.yaml\npolicy: {seed: 1}\n",
        "section": b"policy: 3\n",
        "old_key": b"policy: {lr: 0.1}\n",
        "number_key": b"1: 2\n",
        "type": b"policy: {optimizer: {lr: fast}}\n",
        "choice": b"policy: {sampling: {transition: flow_sd}}\n",
        "null": b"policy: {seed: null}\n",
        "missing": b"policy: {seed: '???'}\n",
        "interpolation": b'policy: {optimizer: {lr: "${nope.x}"}}\n',
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_bytes(text)
    (tmp_path / "folder.yaml").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("word", "must hold a mapping of settings, not a single value"),
        ("list", "must hold a mapping of settings, not a list"),
        ("number", "must hold a mapping of settings"),
        ("syntax", "is not valid YAML: did not find expected node content, line 2, column 1"),
        ("binary", "is not UTF-8 text"),
        ("twice", "line 2: the key 'policy' is set twice, first in line 1"),
        ("grammar", "line 1: ${oops must be the name of a setting"),
        ("folder", "must be a file, got a folder"),
        ("loop_a", "the bases form a cycle: loop_a.yaml -> loop_b.yaml -> loop_a.yaml"),
        ("self", "the bases form a cycle: self.yaml -> self.yaml"),
        ("lost", "no preset 'flux_dv': did you mean flux_dev?"),
        ("lost_file", "no preset file"),
        ("base_list", "base must be the name of a preset or a YAML file, got ['flux_dev']"),
        ("top_k", "policy.algorithm.top_k must be at most half of policy.group_size, got 13 of 24"),
        ("section", "policy is a section, got 3: set a key inside it, e.g. policy.iterations"),
        ("old_key", "no setting 'policy.lr': did you mean policy.optimizer.lr?"),
        ("number_key", "line 1: a key must be text, got '1'"),
        ("type", "policy.optimizer.lr must be a float, got 'fast'"),
        ("choice", "got 'flow_sd': did you mean flow_sde?"),
        ("null", "policy.seed must be an int, got null"),
        ("missing", "policy.seed has no value"),
        ("interpolation", "policy.optimizer.lr: Interpolation key 'nope.x' not found"),
    ],
)
def test_a_wrong_preset_file_is_one_line_that_names_the_file(folder: Path, file: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(str(folder / f"{file}.yaml"), ["policy.iterations=24"])
    message = str(refused.value)
    assert expected in message and "\n" not in message
    assert message.startswith("preset ") and "command line" not in message
    assert f"{file if file != 'loop_a' else 'loop_b'}.yaml" in message.split(": ", maxsplit=1)[0]


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no preset file 'nowhere\.yaml'"):
        load("nowhere.yaml")


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="no preset 'flux_dv': did you mean flux_dev"):
        load("flux_dv")


def test_an_error_in_a_base_names_the_base_and_who_asked_for_it(folder: Path) -> None:
    top = str(folder / "above_top_k.yaml")
    with pytest.raises(SettingsError) as refused:
        load(top)
    assert str(refused.value).startswith(f"preset top_k.yaml (base of {top}): policy.algorithm.top_k must")


def test_a_fault_of_the_command_line_is_not_laid_at_the_preset(folder: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load(str(folder / "above_top_k.yaml"), ["policy.algorithm.top_k=14"])
    assert str(refused.value).startswith("command line: policy.algorithm.top_k must")
    assert load(str(folder / "above_top_k.yaml"), ["policy.algorithm.top_k=4"]).policy.algorithm.top_k == 4


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("policy.lr=3", "no setting 'policy.lr': did you mean policy.optimizer.lr?"),
        ("rewards.judge.wieght=1", "no setting 'rewards.judge.wieght': did you mean rewards.judge.weight?"),
        ("rewards.judge.weight=x", "rewards.judge.weight must be of type float, got 'x'"),
        ("rewards.judge=x", "rewards.judge must be a weight, or the settings of a reward, got 'x'"),
        ("rewards=3", "rewards is a section, got 3: set a key inside it, e.g. rewards.spatialscore=1"),
        ("rewards.Mine.kind=rules", "a name must be of small letters, digits and _, and not total, got 'Mine'"),
        ("rewards.jugde=1", "rewards.jugde.kind must be one of spatialscore, rules, judge, detector"),
        ("rewards.judge.weight=-1", "rewards.judge.weight must be at least 0, got -1"),
        ("rewards.mine.kind=spatialscore", "is the kind of rewards.spatialscore too"),
        ("policy=3", "policy is a section, got '3'"),
        ("policy.seed.x=3", "no setting 'policy.seed.x': did you mean policy.seed?"),
        ("policy.seed", "expected section.key=value, got 'policy.seed'"),
        ("=3", "expected section.key=value, got '=3'"),
        ("policy..seed=3", "no setting 'policy..seed': did you mean policy.seed?"),
        ("policy.=3", "expected section.key=value, got 'policy.=3'"),
        ("policy.optimizer.betas=0.9 0.99", "write 'policy.optimizer.betas=[0.9,0.99]', in quotes"),
        ("run_dir=", "run_dir must not be empty: write e.g. run_dir=runs/mine"),
        ("run_dir=  ", "run_dir must not be empty"),
        ("policy.seed=1.5", "policy.seed must be an int, got 1.5"),
        ("policy.seed=true", "policy.seed must be an int, got true"),
        ("policy.seed=null", "policy.seed must be an int, got null"),
        ("policy.seed=", "policy.seed must be an int, got null"),
        ("policy.seed={a: 1}", "policy.seed must be an int, got {'a': 1}"),
        ("policy.seed=[1", "policy.seed: cannot read '[1'"),
        ("policy.seed=???", "policy.seed has no value"),
        ("policy.seed=${nope}", "policy.seed: Interpolation key 'nope' not found"),
        ("policy.seed=${nope", "policy.seed: cannot read '${nope'"),
        ("policy.optimizer.lr=fast", "policy.optimizer.lr must be a float, got 'fast'"),
        ("policy.optimizer.betas=[1,2,3]", "policy.optimizer.betas must be a list of 2 numbers, got [1, 2, 3]"),
        ("policy.optimizer.betas=[a,b]", "policy.optimizer.betas must be a list of 2 numbers, got ['a', 'b']"),
        ("policy.optimizer.betas=0.9", "policy.optimizer.betas must be a list of 2 numbers, got 0.9"),
        ("flux.lora_targets=[a,[b]]", "flux.lora_targets must be a list of str, got ['a', ['b']]"),
        ("ablation.variants=base,top-4", "write 'ablation.variants=[base,top-4]', in quotes"),
        ("ablation.variants=[base,top4]", "got 'top4': did you mean top-4?"),
        ("policy.learner.zero_stage=4", "policy.learner.zero_stage must be one of 1, 2, 3, got 4"),
        ("reward.loss=btt", "did you mean bt?"),
        ("policy.sampling.shared_initial_noise=own", "policy.sampling.shared_initial_noise must be a bool, got 'own'"),
        ("serving.runtime_env=3", "serving.runtime_env must be a mapping of str to Any, got 3"),
        ("serving.runtime_env={pip: 1}", "serving.runtime_env must have a list of packages at pip, got 1"),
        ("serving.runtime_env={pips: [a]}", "serving.runtime_env must have keys of Ray (pip, uv, "),
        ("serving.runtime_env={pip: [a], uv: [b]}", "must name one of pip, uv and conda, got pip and uv"),
        ("serving.runtime_env.env_vars=3", "serving.runtime_env must have texts by name at env_vars, got 3"),
        ("serving.runtime_env.env_vars.A=1", """got 1: write serving.runtime_env.env_vars.A='"1"'"""),
        ("judge.url=http://h:99999", "judge.url must be like https://host/v1, got 'http://h:99999'"),
        ("judge.url=http://[::1", "judge.url must be like https://host/v1"),
        ("baselines.urls.GPT-5=h", "baselines.urls.GPT-5 must be like https://host/v1"),
        ("policy.optimizer.lr=inf", "policy.optimizer.lr must be a finite number above 0, got inf"),
        ("baselines.price_in.GPT-5=x", "baselines.price_in must be a mapping of str to float, got {'GPT-5': 'x'}"),
        ("baselines.models.HPSv4=x", "got 'HPSv4': did you mean HPSv3?"),
    ],
)
def test_a_wrong_override_is_one_line_that_blames_the_command_line(override: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load("flux_dev", [override])
    message = str(refused.value)
    assert message.startswith("command line: ") and "\n" not in message
    assert expected in message


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["judge.url=https://me:s3cret@host/v1"], "judge.url must not hold a user or a password"),
        (["rewards.mine.kind=http", "rewards.mine.url=http://s3cret@h"], "rewards.mine.url must not hold a user or a"),
        (["judge.key_variable=sk-s3cret"], "judge.key_variable must be the name of an environment variable"),
        (["play.token_variable=my s3cret"], "play.token_variable must be the name of an environment variable"),
        (
            ["rewards.mine.kind=http", "rewards.mine.url=http://h", "rewards.mine.token_variable=sk-s3cret"],
            "rewards.mine.token_variable must be the name of an environment variable",
        ),
    ],
)
def test_a_secret_in_a_setting_is_refused_and_not_repeated(overrides: list[str], rule: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load("flux_dev", overrides)
    assert str(refused.value).startswith(f"command line: {rule}") and "s3cret" not in str(refused.value)


def test_the_keys_of_a_runtime_environment_are_those_of_ray() -> None:
    assert set(PUBLIC_KEYS) == {key for key in RuntimeEnv.known_fields if not key.startswith("_")}


def test_every_value_knows_its_source(folder: Path) -> None:
    (folder / "mine.yaml").write_text("base: flux_dev\npolicy: {seed: 5}\n")
    mine = str(folder / "mine.yaml")
    resolved = resolve(mine, ["policy.group_size=12"], implied=["run_dir=runs/demo", "policy.group_size=48"])
    sources = resolved.sources
    assert sources["policy.group_size"] == "command line"
    assert sources["policy.seed"] == sources["preset"] == f"preset {mine}"
    assert sources["policy.algorithm.top_k"] == "preset flux_dev"
    assert sources["policy.multi_relation_fraction"] == "default"
    assert sources["run_dir"] == "implied by the command"
    assert (resolved.settings.policy.group_size, resolved.settings.run_dir) == (12, "runs/demo")


def test_text_is_taken_as_it_is_and_quotes_are_removed() -> None:
    assert load("scenes", ["sample.text=a: [b # c"]).sample.text == ("a: [b # c",)
    assert load("scenes", ["sample.text='a # b'"]).sample.text == ("a # b",)
    assert load("scenes", ["sample.text=['a, b', c]"]).sample.text == ("a, b", "c")
    assert load("scenes", ["publish.licence=1.50"]).publish.licence == "1.50"
    assert load("scenes", ["serving.model="]).serving.model == ""


def test_entries_of_a_mapping_may_have_dots_and_hyphens() -> None:
    settings = load(
        "scenes",
        [
            "baselines.models.HPSv2.1=/models/hps",
            "baselines.models.Qwen2.5-VL-7B=qwen",
            "baselines.price_in.GPT-5=1.25",
            "serving.runtime_env.env_vars.A=x",
            "serving.runtime_env.pip=[b]",
        ],
    )
    assert settings.baselines.models == {"HPSv2.1": "/models/hps", "Qwen2.5-VL-7B": "qwen"}
    assert settings.baselines.price_in == {"GPT-5": 1.25}
    assert settings.serving.runtime_env == {"env_vars": {"A": "x"}, "pip": ["b"]}


def test_a_section_without_values_in_a_preset_is_allowed(folder: Path) -> None:
    (folder / "comments.yaml").write_text("policy:\n  # seed: 1\nreward:\n  seed: 2\n")
    assert load(str(folder / "comments.yaml")).reward.seed == 2
