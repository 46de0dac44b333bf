"""The generated files: committed as `cluster.render` writes them, equal to the presets, and valid for their readers."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.render import changed_values, main, rendered
from cluster.values import Values, gpu_nodes, groups
from conf import SettingsError, load
from pipelines.cli import parse_settings

ROOT = Path(__file__).parents[2]
CRDS = os.environ.get("SPATIALT2I_KUBERAY_CRDS", "")
KINDS = {"raycluster.yaml": "rayclusters", "rayjob.yaml": "rayjobs", "rayservice.yaml": "rayservices"}
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return rendered(load("flux_dev"), Values())


def test_the_committed_files_are_what_render_writes(files: dict[str, str], tmp_path: Path) -> None:
    assert main(["flux_dev", str(tmp_path)]) == 0
    for name, text in files.items():
        assert (ROOT / "cluster" / name).read_text() == text == (tmp_path / name).read_text(), (
            f"run `python -m cluster.render`: cluster/{name} is not what it writes"
        )


@pytest.mark.skipif(not CRDS, reason="set SPATIALT2I_KUBERAY_CRDS to a folder with KubeRay's CRD schemas")
@pytest.mark.parametrize("name", KINDS)
def test_a_manifest_is_valid_and_a_misspelt_field_is_not(files: dict[str, str], name: str) -> None:
    validator = jsonschema.Draft202012Validator(strict(schema(KINDS[name])))
    manifest = yaml.safe_load(files[name])
    assert [error.message for error in validator.iter_errors(manifest)] == []
    pod = cluster_of(manifest)["headGroupSpec"]["template"]["spec"]
    pod["volume"] = pod.pop("volumes")
    assert not validator.is_valid(manifest)


@pytest.mark.parametrize("name", ["on_premise.yaml", "aws.yaml"])
def test_ray_up_files_are_valid(files: dict[str, str], name: str) -> None:
    package = importlib.util.find_spec("ray")
    assert package and package.origin
    rules = json.loads((Path(package.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load(files[name]), rules)


SEPARATE = ["policy.placement=separate", "policy.rollout.max_actors=18", "policy.rollout.min_actors=1"]


@pytest.mark.parametrize(
    ("preset", "words"),
    [("flux_dev", ()), ("flux_dev", SEPARATE), ("flux_dev_8gpu", ()), ("flux_dev_1gpu", ()), ("qwen_image", ())],
)
def test_pods_hold_what_the_preset_places_on_them(preset: str, words: Sequence[str]) -> None:
    settings, values = load(preset, words), Values()
    texts = rendered(settings, values)
    workers = {
        group["groupName"]: group for group in cluster_of(yaml.safe_load(texts["rayjob.yaml"]))["workerGroupSpecs"]
    }
    policy, serving = settings.policy, settings.serving
    ranks, replicas = policy.learner.ranks, serving.max_replicas
    if serving.gpus == 1:
        wanted = {"reward": (replicas, 1, serving.cpus), "learner": (ranks, 1, policy.learner.cpus)}
    else:  # the replicas run beside ranks
        assert serving.gpus + policy.learner.gpus == 1 and replicas <= ranks
        wanted = {"learner": (ranks, 1, policy.learner.cpus + replicas * serving.cpus / ranks)}
    if policy.rollout.max_actors:
        wanted["rollout"] = (policy.rollout.max_actors, policy.rollout.gpus, policy.rollout.cpus)
    assert set(workers) == set(wanted)
    for name, (count, gpus, cpus) in wanted.items():
        group, limits = workers[name], workers[name]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert group["maxReplicas"] * int(limits["nvidia.com/gpu"]) == count * gpus
        assert group["maxReplicas"] * int(limits["cpu"]) >= count * cpus
        assert group["minReplicas"] <= group["maxReplicas"]
        assert group["labels"] == {"ray.io/node-group": name}
    machines = yaml.safe_load(texts["on_premise.yaml"])["provider"]["worker_ips"]
    assert len(set(machines)) == yaml.safe_load(texts["aws.yaml"])["max_workers"] == gpu_nodes(settings, values)


def test_fractions_of_a_gpu_that_leave_some_of_it_idle_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"serving\.gpus must be a whole number .* got 0\.4 .*flux_dev_8gpu"):
        groups(load("flux_dev_8gpu", ["serving.gpus=0.4"]), Values())


def test_the_job_places_its_roles_on_the_groups_of_the_cluster(files: dict[str, str]) -> None:
    job = yaml.safe_load(files["rayjob.yaml"])["spec"]
    _, settings = parse_settings(shlex.split(job["entrypoint"])[1:])
    named = [settings.serving.node_group, settings.policy.learner.node_group]
    assert settings.policy.rollout.max_actors == 0
    assert named == [group["groupName"] for group in job["rayClusterSpec"]["workerGroupSpecs"]]


def test_values_can_be_changed_on_the_command_line(tmp_path: Path) -> None:
    assert main(["flux_dev", str(tmp_path), "image=registry.example/t2i:1", "gpus_per_node=4"]) == 0
    job = cluster_of(yaml.safe_load((tmp_path / "rayjob.yaml").read_text()))
    assert job["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/t2i:1"
    assert yaml.safe_load((tmp_path / "aws.yaml").read_text())["max_workers"] == 8
    assert "flux_dev image=registry.example/t2i:1 gpus_per_node=4`" in (tmp_path / "aws.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["flux_dev", "imge=x"], "no value 'imge' in cluster/values.py: did you mean image?"),
        (["flux_dev", "gpus_per_node=four"], "gpus_per_node must be a whole number, got 'four'"),
        (["flux_dv"], "did you mean flux_dev?"),
        (["scenes"], "policy.rollout.gpus must be a whole number"),
    ],
)
def test_a_wrong_argument_is_one_message_and_exit_code_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and expected in err and err.count("\n") == 1


def test_a_value_keeps_its_type() -> None:
    assert changed_values(["head_cpus=16", "name=mine"]) == Values(head_cpus=16, name="mine")


def test_claims_exist_and_secrets_are_references(files: dict[str, str]) -> None:
    claims = {claim["metadata"]["name"] for claim in yaml.safe_load_all(files["storage.yaml"])}
    for name in KINDS:
        spec = cluster_of(yaml.safe_load(files[name]))
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            pod = group["template"]["spec"]
            used = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
            assert used == claims
            keys = [each for each in pod["containers"][0]["env"] if each["name"].endswith(("_KEY", "_TOKEN"))]
            assert keys and all(set(each) == {"name", "valueFrom"} for each in keys)


def test_the_image_has_the_pinned_version_of_ray(files: dict[str, str]) -> None:
    pinned = f"ray=={Values().ray}"
    assert pinned in (ROOT / "constraints.txt").read_text().splitlines()
    assert f"FROM rayproject/ray:{Values().ray}-py311-cpu" in files["Dockerfile"]
    copied = [line.split()[2:-1] for line in files["Dockerfile"].splitlines() if line.startswith("COPY")]
    assert all((ROOT / source).exists() for sources in copied for source in sources)


def cluster_of(manifest: Tree) -> Tree:
    """The Ray cluster in a manifest of any kind."""
    spec = manifest["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def schema(plural: str) -> Tree:
    """The schema of version v1 of a KubeRay resource."""
    path = Path(CRDS) / f"ray.io_{plural}.yaml"
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    return version["schema"]["openAPIV3Schema"]


def strict(node: Any) -> Any:
    """The same schema, in which unknown fields are errors. Kubernetes would drop them silently."""
    if isinstance(node, list):
        return [strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    inner = {key: strict(value) for key, value in node.items()}
    is_object = node.get("type") == "object" and "properties" in node
    if is_object and not node.get("x-kubernetes-preserve-unknown-fields"):
        inner.setdefault("additionalProperties", False)
    return inner
