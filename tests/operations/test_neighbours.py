"""Files of somebody else, in every folder that a verb cleans or replaces: they stay, or the verb is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from PIL import Image

from actors.files import write_file
from actors.folders import Marker, write_marker
from cluster.render import main as render
from conf import UserError, dump, load
from conf.partial import is_partial
from pipelines.cli import main
from pipelines.common.paths import RunPaths
from pipelines.common.run_folder import driving
from pipelines.policy.run_log import RunLog
from tests.support.scene_pairs import write_scene_pairs

Content = dict[Path, bytes]


def put(folder: Path, *names: str) -> Content:
    """Files of a neighbour in a folder, some folders of digits, and a link to a folder elsewhere."""
    elsewhere = folder.parent / f"elsewhere-{folder.name}"
    names = (*names, "notes.txt", "2024/photo.jpg", "000001/data.bin", "x.partial", "y.old/z")
    content = {folder / name: f"{name} of a neighbour".encode() for name in names}
    for path, data in content.items():
        write_file(str(path), data)
    write_file(str(elsewhere / "precious"), b"behind a link")
    (folder / "link").symlink_to(elsewhere)
    return {**content, folder / "link" / "precious": b"behind a link"}


def check(content: Content) -> None:
    assert {path: path.read_bytes() for path in content} == content


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was started"))


RULES = "rewards.spatialscore=0 rewards.rules=1"
REFUSED = {
    "checkpoints elsewhere": (f"policy train {RULES} policy.checkpoint.dir={{tmp}}/shared", "shared", ()),
    "checkpoints elsewhere, from the start": (
        f"policy train {RULES} policy.resume=never policy.checkpoint.dir={{tmp}}/shared", "shared", ()
    ),
    "checkpoints by URI": (f"policy train {RULES} policy.checkpoint.dir=file://{{tmp}}/shared", "shared", ()),
    "checkpoints of the run": (f"policy train {RULES}", "run/policy/checkpoints", ()),
    "the whole pipeline": ("run policy.checkpoint.dir={tmp}/shared", "shared", ()),
    "settings of another program": ("preferences build", "run", ("settings.yaml",)),
    "metrics of another program": (f"policy train {RULES}", "run", ("policy/metrics.jsonl",)),
    "evaluation of another program": ("run", "run", ("evaluation/report.html",)),
    "a folder of another kind": (f"policy train {RULES}", "run", ()),
    "the merged policy": (f"policy train {RULES} export.merged=true", "run/policy/merged", ()),
    "tasks of another project": (
        "preferences to_label_studio review.label_studio={tmp}/shared", "shared", ("config.xml",)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "folder", "names"), REFUSED.values(), ids=REFUSED.keys())
def test_a_verb_that_would_replace_files_of_others_is_refused(
    line: str, folder: str, names: tuple[str, ...], tmp_path: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before Ray starts, and with every byte where it was."""
    if "to_label_studio" in line:
        write_scene_pairs(tmp_path / "run" / "preferences", 5)
        dump(load("scenes", [f"run_dir={tmp_path}/run"]), tmp_path / "run" / "settings.yaml")
    content = put(tmp_path / folder, *names)
    if folder == "run" and not names:
        write_marker(str(tmp_path / "run"), Marker("checkpoints", "of another run"))
    assert main([*line.format(tmp=tmp_path).split(), f"run_dir={tmp_path}/run"]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / folder) in message and "Traceback" not in message
    check(content)
    assert not [path for path in tmp_path.rglob("*") if is_partial(path.name)]


def test_pairs_of_others_are_neither_read_nor_replaced(
    tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["preferences.pairs=20", "preferences.generated_fraction=0", "preferences.corrupted_fraction=0"]
    build = ["preferences", "build", f"run_dir={tmp_path}/run", *small]
    content = put(tmp_path / "run" / "preferences", "2024.parquet", "train-00000.parquet")
    assert main(build) == 2
    assert "train-00000.parquet was not written by this run" in capsys.readouterr().err
    check(content)
    taken = tmp_path / "run" / "preferences" / "train-00000.parquet"
    taken.unlink()
    del content[taken]
    content |= put(tmp_path / "run" / "preferences" / ".shards", "2024.json")
    assert main(build) == 0
    assert "20 pairs" in capsys.readouterr().out
    check(content)


def test_a_published_version_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    write_scene_pairs(tmp_path / "run" / "preferences", 10)
    dump(load("scenes", [f"run_dir={tmp_path}/run"]), tmp_path / "run" / "settings.yaml")
    content = put(tmp_path / "shared", "1.0.0.partial/half", "1.0.0.old/whole")
    words = ["preferences", "publish", f"run_dir={tmp_path}/run", f"publish.out={tmp_path}/shared"]
    assert [main(words), main(words)] == [0, 2]
    check(content)


def test_label_studio_and_report_leave_their_neighbours_alone(tmp_path: Path) -> None:
    write_scene_pairs(tmp_path / "run" / "preferences", 5)
    dump(load("scenes", [f"run_dir={tmp_path}/run"]), tmp_path / "run" / "settings.yaml")
    content = put(tmp_path / "run") | put(tmp_path / "shared")
    for words in (["to_label_studio", f"review.label_studio={tmp_path}/shared"], ["report"], ["report"]):
        assert main(["preferences", *words, f"run_dir={tmp_path}/run"]) == 0
    check(content)


@pytest.mark.parametrize("name", ["Dockerfile", "alerts.yaml", "grafana_dashboard.json"])
def test_the_renderer_replaces_its_own_files_only(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = put(tmp_path / "mine")
    assert [render(["flux_dev", str(tmp_path / "mine")]) for _ in range(2)] == [0, 0]
    (tmp_path / "mine" / name).write_text("of a neighbour")
    content[tmp_path / "mine" / name] = b"of a neighbour"
    (tmp_path / "mine" / "storage.yaml").unlink()
    assert render(["flux_dev", str(tmp_path / "mine")]) == 2
    assert f"holds {name}, which it did not write" in capsys.readouterr().err
    assert not (tmp_path / "mine" / "storage.yaml").exists(), "it is refused before the first file"
    check(content)


def test_a_resumed_run_removes_its_own_images_only(tmp_path: Path) -> None:
    """Also those in folders of TensorBoard and of metrics stay."""
    paths = RunPaths(tmp_path)
    content = put(paths.images, "2024.png", "cat.png", "000099.png") | put(paths.tensorboard)
    write_file(str(paths.evaluations), b'{"iteration": 3}\n{"iteration": 5}\n')
    for version in (3, 5):
        Image.new("RGB", (4, 4)).save(paths.images / f"{version:06d}.png")
    log = RunLog(paths)
    log.truncate_after(4)
    log.close()
    check(content)
    assert (paths.images / "000003.png").exists() and not (paths.images / "000005.png").exists()


def test_an_older_run_may_continue(tmp_path: Path) -> None:
    """A run of version 0.2.0 has settings.yaml and no marker: its files are not those of another program."""
    settings = load("scenes", [f"run_dir={tmp_path}/run"])
    dump(settings, tmp_path / "run" / "settings.yaml")
    write_file(str(tmp_path / "run" / "evaluation" / "report.html"), b"old")
    with driving(settings, "evaluation"):
        pass
    (tmp_path / "run" / ".spatialt2i.json").unlink()
    (tmp_path / "run" / "settings.yaml").unlink()
    with pytest.raises(UserError, match=r"is not a run of spatialt2i, but it holds evaluation/report\.html"):
        driving(settings, "evaluation").__enter__()
