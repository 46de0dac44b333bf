"""The command line: words become an action and settings, and every mistake is one line and exit code 2."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from conf import SettingsError, UserError, load
from conf.catalog import catalog, sections
from conf.command import Action
from pipelines import cli
from pipelines.cli import VERBS, main, parse, parse_settings
from tests.support.runs import make_run

ROOT = Path(__file__).parents[2]
ACTIONS = [action for actions in VERBS.values() for action in actions.values()]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.command)
def test_every_action_names_a_function(action: Action) -> None:
    module, function = action.command.split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a folder with a run of the demo."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "demo")
    make_run(tmp_path / "runs" / "flux_dev", "flux_dev", age=60)
    return tmp_path


def test_the_only_action_of_a_verb_and_the_scenes_preset_are_the_defaults() -> None:
    for words in (["doctor"], ["doctor", "run"]):
        action, settings = parse_settings(words)
        assert action is VERBS["doctor"]["run"]
        assert settings == load("scenes")


@pytest.mark.parametrize("verb", [verb for verb, actions in VERBS.items() if len(actions) > 1])
def test_a_verb_with_several_actions_shows_its_help_and_starts_nothing(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "run", lambda action, resolved: pytest.fail("an action was started"))
    assert main([verb]) == 0
    shown = capsys.readouterr().out
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out == shown
    assert f"usage: spatialt2i {verb} [ACTION]" in shown


def test_an_action_a_preset_and_overrides_may_come_in_any_order() -> None:
    for words in (["flux_dev", "policy.optimizer.lr=0.001"], ["policy.optimizer.lr=0.001", "flux_dev"]):
        action, settings = parse_settings(["policy", "export", *words])
        assert action is VERBS["policy"]["export"]
        assert (settings.preset, settings.policy.optimizer.lr) == ("flux_dev", 0.001)


TEXTS = [
    'a cup: "red", left of a plate',
    "cat",
    "a sign that says x=1",
    "x=1 is true",
    "policy.yaml of a cat",
    "a # b",
    "${home} x",
    "a = b",
    "two\nlines",
    "é ü",
]


@pytest.mark.parametrize("text", TEXTS)
def test_words_in_quotes_are_the_text_of_a_sample(text: str) -> None:
    action, settings = parse_settings(["policy", "sample", text, "sample.images=2"])
    assert action is VERBS["policy"]["sample"]
    assert (settings.sample.text, settings.sample.images) == ((text,), 2)


def test_score_takes_prompts_images_and_out() -> None:
    for out in (["--out", "s3://b/o.parquet"], ["--out=s3://b/o.parquet"]):
        _, settings = parse_settings(
            ["reward", "score", *out, "p.jsonl", "flux_dev", "a folder/", "score.chunk_rows=7"]
        )
        score = settings.score
        assert (score.prompts, score.images, score.out) == ("p.jsonl", "a folder/", "s3://b/o.parquet")
        assert (settings.preset, score.chunk_rows) == ("flux_dev", 7)


def test_what_an_action_implies_yields_to_the_command_line() -> None:
    assert parse_settings(["demo"])[1].run_dir == "runs/demo"
    assert parse_settings(["demo", "run_dir=mine"])[1].run_dir == "mine"


def test_submit_takes_another_command() -> None:
    action, settings = parse_settings(["submit", "policy", "train", "run_dir=/shared/x", "submit.follow=false"])
    assert action is VERBS["submit"]["run"]
    assert settings.submit.command == "spatialt2i policy train run_dir=/shared/x"
    assert (settings.run_dir, settings.submit.follow) == ("/shared/x", False)
    whole = parse_settings(["submit", "run", "flux_dev", "run_dir=/shared/x"])[1]
    assert whole.submit.command == "spatialt2i run flux_dev run_dir=/shared/x"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["polcy"], "no verb 'polcy': did you mean policy?"),
        ([""], "no verb ''"),
        (["policy", "exprt"], "did you mean export?"),
        (["policy", "exprt", "--help"], "did you mean export?"),
        (["reward", "train", "flux_dv"], "did you mean flux_dev?"),
        (["policy", "flux_dev"], "policy needs an action (train, export, sample): write e.g. policy train flux_dev"),
        (["submit", "policy"], "policy needs an action"),
        (["policy", "help"], "did you mean spatialt2i policy --help?"),
        (["help"], "did you mean spatialt2i --help?"),
        (["--versoin"], "did you mean spatialt2i --version"),
        (["--version", "x"], "did you mean spatialt2i --version, without other words?"),
        (["policy", "train", "--version"], "did you mean spatialt2i --version"),
        (["preferences", "publish", "--version", "1.0.1"], "write publish.version=1.0.1"),
        (["status", "/tmp/foo"], "there is no run in /tmp/foo: runs that exist: runs/demo"),
        (["policy", "sample", "flux_dv"], "did you mean flux_dev?"),
        (["policy", "sample", "x=1"], "no setting 'x'"),
        (["policy", "train", "policy.minutes", "5"], "write policy.minutes=5"),
        (["policy", "train", "policy.minutes"], "write policy.minutes=VALUE"),
        (["policy", "sample", ""], "quote your text"),
        (["policy", "train", "policy.optimizer.betas=0.9", "0.99"], "write 'policy.optimizer.betas=[0.9,0.99]'"),
        (["policy", "train", "flux_dev", "scenes"], "two presets, flux_dev and scenes"),
        (["policy", "train", "policy.algorithm.top_k=13"], "command line: policy.algorithm.top_k must"),
        (["policy", "train", "policy.lr=3"], "did you mean policy.optimizer.lr?"),
        (["policy", "train", "policy.lr"], "write policy.optimizer.lr=VALUE"),
        (["policy", "train", "--lr", "3"], "write policy.optimizer.lr=3"),
        (["policy", "train", "--lr=3"], "write policy.optimizer.lr=3"),
        (["policy", "train", "--top_k", "4"], "write policy.algorithm.top_k=4"),
        (["policy", "train", "--top-k", "4", "flux_dev"], "write policy.algorithm.top_k=4"),
        (["policy", "train", "--policy.lr=3"], "write policy.optimizer.lr=3"),
        (["policy", "train", "--policy.optimizer.lr", "3"], "write policy.optimizer.lr=3"),
        (["reward", "train", "--lr", "3"], "write reward.lr=3"),
        (["evaluate", "--lr", "3"], "write one of reward.lr=3, policy.optimizer.lr=3"),
        (["policy", "train", "--dashboard"], "write dashboard=true"),
        (["policy", "train", "--wibble", "1"], "see spatialt2i policy train --help"),
        (["--lr", "3"], "write one of reward.lr=3, policy.optimizer.lr=3, after a verb"),
        (["reward", "score", "a", "b", "c"], "'c' is neither"),
        (["reward", "score", "--out"], "--out needs a value"),
        (["reward", "score", "--outt", "x.parquet"], "write score.out=x.parquet"),
        (["submit"], "submit needs the command"),
        (["submit", "policy", "train"], "Add run_dir=/shared/scenes"),
        (["submit", "policy", "train", "run_dir=/x", "policy.checkpoint.dir=y"], "use /shared/y"),
        (["config", "shwo"], "did you mean show?"),
        (["config", "describe", "flux_dev"], "preset flux_dev): leave it out, or use config show"),
        (["config", "describe", "policy.seed=3"], "got policy.seed (command line)"),
        (["config", "show", "flux_dv"], "neither a preset nor a section: did you mean flux_dev?"),
        (["config", "show", "polcy"], "did you mean policy?"),
        (["config", "show", "nowhere.yaml"], "no preset file 'nowhere.yaml'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    line: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("spatialt2i: ") and err.count("\n") == 1
    assert expected in err


def test_a_users_mistake_inside_an_action_is_one_line_and_a_fault_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> None:
        def act(action: object, resolved: object) -> None:
            raise error

        monkeypatch.setattr(cli, "run", act)

    fail(UserError("no pairs in runs/x: run `spatialt2i preferences build` first"))
    assert main(["reward", "train"]) == 2
    assert capsys.readouterr().err == ("spatialt2i: no pairs in runs/x: run `spatialt2i preferences build` first\n")
    fail(ValueError("shapes differ"))
    with pytest.raises(ValueError, match="shapes differ"):
        main(["reward", "train"])
    assert issubclass(SettingsError, UserError) and issubclass(SettingsError, ValueError)


def test_a_check_that_failed_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(action: object, resolved: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(cli, "run", act)
    assert main(["doctor"]) == 1


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"spatialt2i {importlib.metadata.version('spatialt2i')}\n"


def test_help_and_mistakes_import_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from pipelines.cli import main\n"
        "main(['policy', 'train', '--help']); main(['policy', 'train', '--lr', '3']); main(['policy'])\n"
        "sys.exit(bool({'torch', 'ray', 'actors', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert ended.returncode == 0, ended.stderr


def test_a_thread_that_calls_ray_after_the_end_starts_and_joins_no_cluster() -> None:
    """Ray reads its variable when it is imported. Without it, `ray.put` starts or joins some cluster of the machine."""
    program = "from pipelines.cli import main; main(['config', 'show']); import ray; ray.put(1)"
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert ended.returncode == 1 and "Ray has not been started yet" in ended.stderr, ended.stderr


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m pipelines.cli config show | head -1"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("preset: scenes")


def test_every_word_option_and_section_of_an_action_exists() -> None:
    for action in ACTIONS:
        assert set(action.sections) <= set(sections())
        assert {word.setting for word in action.words} | set(action.options.values()) <= set(catalog())


def test_settings_of_an_older_version_stop_only_commands_that_continue_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = make_run(tmp_path / "runs" / "older", overrides=["sample.images=3"])
    text = older.settings.read_text()
    older.settings.write_text(text.replace("flux:\n", "flux:\n  gradient_checkpointing: true\n", 1) + "gone:\n  x: 1\n")
    monkeypatch.chdir(tmp_path)
    for words in (["status"], ["policy", "sample", "a cup"], ["policy", "export"], ["reward", "serve"]):
        command = parse(words)
        assert command.unknown == ("flux.gradient_checkpointing", "gone"), words
        assert command.resolved.settings.flux.checkpoint_every == 0
    for words in (["policy", "train"], ["reward", "train"], ["preferences", "build", "runs/older"]):
        with pytest.raises(SettingsError, match=r"no setting 'flux.gradient_checkpointing'|no section 'gone'"):
            parse(words)
