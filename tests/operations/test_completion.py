"""The completion script, run by bash as it would at the TAB key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conf import presets
from conf.catalog import settings_of
from pipelines.cli import VERBS, main
from tests.support.runs import make_run

TAB = """
source "$1"
COMP_LINE=$2
COMP_POINT=${#COMP_LINE}
_spatialt2i
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "demo")
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "completion.bash"
    path.write_text(capsys.readouterr().out)
    return path


def completed(script: Path, line: str) -> set[str]:
    """What bash offers after `line`."""
    ended = subprocess.run(
        ["bash", "-c", TAB, "bash", str(script), line], capture_output=True, text=True, check=True, cwd=script.parent
    )
    assert ended.stderr.replace("bash: line 24: compopt: not currently executing completion function\n", "") == ""
    return set(filter(None, ended.stdout.splitlines()))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("spatialt2i ", {*VERBS, "--help", "--version"}),
        ("spatialt2i pol", {"policy"}),
        ("spatialt2i policy ", set(VERBS["policy"])),
        ("spatialt2i policy tr", {"train"}),
        ("spatialt2i policy train qw", {"qwen_image"}),
        ("spatialt2i policy train flu", {"flux.", *(name for name in presets() if name.startswith("flux"))}),
        ("spatialt2i policy train policy.optimizer.", {f"{each.key}=" for each in settings_of("policy.optimizer")}),
        ("spatialt2i policy train policy.sampling.transition=", {"flow_sde", "cps"}),
        ("spatialt2i policy train flux_dev policy.sampling.transition=c", {"cps"}),
        ("spatialt2i status status.once=", {"true", "false"}),
        ("spatialt2i status run_dir=", {"runs/demo/"}),
        ("spatialt2i status r", {"run_dir=", "ray_address=", "runs"}),
        ("spatialt2i completion ", {"bash", "zsh", "fish"}),
        ("spatialt2i policy train 'a *", set()),
    ],
)
def test_the_tab_key_offers_what_may_follow(script: Path, line: str, offered: set[str]) -> None:
    assert completed(script, line) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_name_the_same_words(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in (*VERBS, *VERBS["policy"], "flux_dev_8gpu", "policy.optimizer.lr=", "flow_sde"):
        assert word in text


def test_the_script_is_printed_without_heavy_modules() -> None:
    program = (
        "import sys; from pipelines.cli import main; main(['completion', 'bash'])\n"
        "sys.exit(bool({'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert ended.returncode == 0, ended.stderr
