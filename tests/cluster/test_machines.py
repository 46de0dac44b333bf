"""The `ray up` files, read by the functions with which Ray itself starts a head and its workers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cluster.render import rendered
from cluster.values import Values
from conf import UserError, load
from conf.operations import DoctorSettings
from conf.settings import Settings
from pipelines.common import cluster_state, node_limits
from pipelines.common.cluster_state import NodeResources
from pipelines.common.node_limits import VARIABLE, NodeLimit, largest_cluster, limits_text
from pipelines.common.resources import unschedulable
from pipelines.operations.doctor.ray_address import check_resources, check_room
from pipelines.policy.resources import check_capacity, resource_requests

Config = dict[str, Any]
PRESETS = ("flux_dev", "flux_dev_8gpu", "flux_dev_1gpu", "qwen_image", "flux_dev_no_filter", "flux_dev_top4")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return rendered(load("flux_dev"), Values())


@pytest.fixture
def local_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps Ray's record of a cluster on this machine out of the way."""
    from ray.autoscaler._private.local import config, node_provider

    monkeypatch.setattr(config, "get_state_path", lambda name: str(tmp_path / f"{name}.state"))
    monkeypatch.setattr(config, "get_lock_path", lambda name: str(tmp_path / f"{name}.lock"))
    monkeypatch.setattr(node_provider, "get_state_path", lambda name: str(tmp_path / f"{name}.state"))
    monkeypatch.setattr(node_provider, "get_lock_path", lambda name: str(tmp_path / f"{name}.lock"))


def head_config(text: str) -> tuple[Config, Config]:
    """What `ray up` copies to the head, and the configuration that the autoscaler reads there."""
    from ray.autoscaler._private.commands import _set_up_config_for_head_node
    from ray.autoscaler._private.local.config import bootstrap_local
    from ray.autoscaler._private.local.node_provider import LocalNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    config = bootstrap_local(config)
    provider = LocalNodeProvider(config["provider"], config["cluster_name"])
    config, remote = _set_up_config_for_head_node(config, provider, no_restart=False)
    return config, json.loads(Path(remote.name).read_text())


@pytest.mark.usefixtures("local_state")
def test_the_head_of_existing_machines_gets_a_key_with_which_it_starts_workers(files: dict[str, str]) -> None:
    config, remote = head_config(files["on_premise.yaml"])
    assert config["file_mounts"]["~/ray_bootstrap_key.pem"] == Values().ssh_key
    assert remote["auth"]["ssh_private_key"] == "~/ray_bootstrap_key.pem"
    (workers,) = [kind for name, kind in remote["available_node_types"].items() if "max_workers" in kind]
    assert workers["max_workers"] == workers["min_workers"] == 4
    assert "/home/ray/.ray/auth_token" in remote["file_mounts"]


def test_ray_starts_head_and_workers_on_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own functions against moto's EC2, up to the log-in: image, disk, key, role, and one group for all."""
    boto3 = pytest.importorskip("boto3", reason="needs the extra `dev`")
    moto = pytest.importorskip("moto", reason="needs the extra `dev`")
    from ray.autoscaler._private.aws.config import DEFAULT_AMI, bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.commands import _set_up_config_for_head_node
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray writes the key that it makes
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    (tmp_path / ".ssh").mkdir()
    with moto.mock_aws():
        ec2 = boto3.client("ec2", region_name=Values().aws_region)
        image = ec2.register_image(Name="gpu", RootDeviceName="/dev/sda1")["ImageId"]
        iam = boto3.client("iam")  # Ray makes the role if there is none, and waits for it
        iam.create_instance_profile(InstanceProfileName="ray-autoscaler-v1")
        iam.create_role(RoleName="ray-autoscaler-v1", AssumeRolePolicyDocument="{}")
        iam.add_role_to_instance_profile(InstanceProfileName="ray-autoscaler-v1", RoleName="ray-autoscaler-v1")
        config = prepare_config(yaml.safe_load(rendered(load("flux_dev"), Values(aws_image=image))["aws.yaml"]))
        validate_config(config)
        config = bootstrap_aws(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        mounted, remote = _set_up_config_for_head_node(config, provider, no_restart=False)
        kinds = config["available_node_types"]
        provider.create_node({**kinds["head"]["node_config"], **config["head_node"]}, {"ray-node-name": "head"}, 1)
        provider.create_node(dict(kinds["gpu"]["node_config"]), {"ray-node-name": "gpu"}, 1)
        machines = [each for part in ec2.describe_instances()["Reservations"] for each in part["Instances"]]
        (key,) = {each["KeyName"] for each in machines}
        sizes = [each["Size"] for each in ec2.describe_volumes()["Volumes"]]
    assert [each["InstanceType"] for each in machines] == [Values().aws_head, Values().aws_worker]
    assert {each["ImageId"] for each in machines} == {image} and image not in DEFAULT_AMI.values()
    assert len({group["GroupId"] for each in machines for group in each["SecurityGroups"]}) == 1
    assert ["IamInstanceProfile" in each for each in machines] == [True, False]  # the head rents the others
    assert sizes == [Values().aws_disk] * 2
    assert mounted["file_mounts"]["~/ray_bootstrap_key.pem"] == f"{tmp_path}/.ssh/{key}.pem"
    assert "/home/ray/.ray/auth_token" in json.loads(Path(remote.name).read_text())["file_mounts"]


def test_every_machine_prepares_the_folders_that_its_container_mounts(files: dict[str, str]) -> None:
    for name in ("on_premise.yaml", "aws.yaml"):
        config = yaml.safe_load(files[name])
        commands, options = " ".join(config["initialization_commands"]), config["docker"]["run_options"]
        assert "-v /tmp/ray:/tmp/ray" in options and "mkdir -p /tmp/ray" in commands
        assert "--env-file $HOME/spatialt2i.env" in options and "touch $HOME/spatialt2i.env" in commands
        starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        assert sum("--metrics-export-port=8080" in each for each in starts) == 2


@pytest.mark.parametrize("preset", PRESETS)
def test_the_largest_cluster_that_a_manifest_states_holds_every_stage(preset: str) -> None:
    settings = load(preset)
    texts = rendered(settings, Values())
    head = yaml.safe_load(texts["raycluster.yaml"])["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    pods = largest_cluster({each["name"]: each.get("value", "") for each in head["env"]})
    options = yaml.safe_load(texts["on_premise.yaml"])["docker"]["run_options"]
    (stated,) = [each.partition("=")[2] for each in options if VARIABLE in each]
    machines = largest_cluster({VARIABLE: stated})
    for nodes in (pods, machines):
        assert nodes
        assert unschedulable(resource_requests(settings), nodes) == ""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        reward, generators = settings.reward, settings.preferences.generators
        assert reward.workers * reward.cpus_per_worker <= cpus
        assert not reward.use_gpu or reward.workers <= gpus
        for weight, generator in (
            (generators.qwen_image, settings.qwen_image),
            (generators.hunyuan_image, settings.hunyuan_image),
        ):
            if weight:
                assert generator.actors * generator.gpus <= gpus and generator.actors * generator.cpus <= cpus


def test_limits_are_read_as_they_are_written_and_other_text_is_refused() -> None:
    limits = (NodeLimit(2, 8, 1, "reward"), NodeLimit(1, 96, 8, ""))
    nodes = largest_cluster({VARIABLE: limits_text(limits)})
    assert nodes == (*[NodeResources(8, 1, 8, 1, "reward")] * 2, NodeResources(96, 8, 96, 8, ""))
    assert largest_cluster({}) is None
    with pytest.raises(UserError, match=f"{VARIABLE} must be like reward=2x8x1"):
        largest_cluster({VARIABLE: "4 nodes"})


def shared(preset: str) -> Settings:
    return load(preset, ["ray_address=auto"])


def test_a_run_that_can_never_fit_is_refused_on_a_shared_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = shared("flux_dev")
    check_capacity(settings)  # nothing is known, so the run would wait
    monkeypatch.setenv(VARIABLE, "reward=2x8x1,learner=1x64x8")
    with pytest.raises(UserError, match=f"at its largest .{VARIABLE}"):
        check_capacity(settings)
    monkeypatch.setenv(VARIABLE, "any=4x96x8")
    check_capacity(settings)


def test_the_doctor_distinguishes_too_few_now_from_never() -> None:
    machine = NodeResources(96, 8, 96, 8)
    policy = partial(check_room, "stage 3", resource_requests(shared("flux_dev_8gpu")))
    assert policy([machine], None).ok
    unknown = policy([], None)
    assert unknown.ok and "too few now: a run waits until nodes are added" in unknown.message
    later = policy([], [machine])
    assert later.ok and "may add nodes up to 96 CPUs and 8 GPUs" in later.message
    assert policy([machine], []).ok  # it fits now
    small = NodeResources(96, 4, 96, 4)
    refused = policy([small], [small])
    assert not refused.ok and "too few for ever" in refused.message and "policy.learner.ranks" in refused.fix


def test_the_doctor_of_stage_2_counts_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without stage 3: four GPUs are too few for the eight workers of the preset."""
    settings = replace(shared("flux_dev"), doctor=DoctorSettings(stage="reward"))
    nodes = [NodeResources(96, 4, 96, 4)]
    monkeypatch.setattr(cluster_state, "read_cluster", lambda: SimpleNamespace(nodes=nodes))
    monkeypatch.setattr(node_limits, "largest_cluster", lambda: nodes)
    (found,) = check_resources(settings)
    assert not found.ok and found.message.startswith("Ray, stage 2: 96 CPUs and 4 GPUs")
    assert "reward.workers" in found.fix
    nodes.append(NodeResources(96, 4, 96, 4))
    (enough,) = check_resources(settings)
    assert enough.ok
