"""Cluster files: what is accepted, what is refused and how it is said."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster.aws.checks import check_aws, placeholders
from orchestrator.cluster.aws.pools import describe, head_pool, most_processors, most_workers, worker_pools
from orchestrator.cluster.gpu_kinds import GPU_KINDS, kind_of_accelerator, kind_of_instance
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ConfigError

CLUSTERS = Path(__file__).parents[2] / "clusters"


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CLUSTERS / "aws.yaml").read_text())
    return content


def write(folder: Path, content: Any) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_local_file_leaves_the_size_to_the_machine() -> None:
    config = load_cluster(CLUSTERS / "local.yaml")
    assert (config.kind, config.num_cpus, config.num_gpus) == ("local", None, None)
    assert (config.cpus_per_training, config.gpus_per_training) == (None, None)


def test_existing_file_connects_to_the_cluster_of_this_machine() -> None:
    config = load_cluster(CLUSTERS / "existing.yaml")
    assert (config.kind, config.address, config.auth_token, config.provider) == ("existing", "auto", None, None)


def test_an_existing_cluster_says_whose_machines_it_is_made_of(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("kind: existing\naddress: auto\ncloud: aws\n")
    assert load_cluster(path).provider == "aws"


def test_aws_file_offers_the_gpus_of_its_workers_and_lists_what_is_to_be_filled_in() -> None:
    config = load_cluster(CLUSTERS / "aws.yaml")
    # 6 L40S and 4 A10G on spot, 2 L40S on demand; 12 x 8 CPUs there and 2 x 16 on CPU workers; none on the head.
    assert most_processors(config.ray) == (128, 12)
    assert {pool.name: (pool.max_nodes, pool.gpu.name) for pool in config.node_pools()} == {
        "gpu_spot_l40s": (6, "L40S"),
        "gpu_spot_a10g": (4, "A10G"),
        "gpu_on_demand": (2, "L40S"),
        "cpu_spot": (2, ""),
    }
    assert sorted(placeholders({"output": config.output, "ray": config.ray})) == [
        "FILL-IN-bucket",
        "FILL-IN-head-instance-profile",
        "FILL-IN-image-id",
        "FILL-IN-security-group-id",
        "FILL-IN-subnet-id",
        "FILL-IN-worker-instance-profile",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: local\nnum_cpu: 2\n", "unknown key 'num_cpu'; did you mean 'num_cpus'"),
        ("kind: locl\n", "kind is 'locl'; expected one of aws, existing, kubernetes, local, slurm, ssh"),
        ("num_cpus: 2\n", "key 'kind' is missing; expected one of aws, existing, kubernetes, local, slurm, ssh"),
        ("kind: local\nnum_cpus: two\n", "num_cpus is 'two' (str); expected integer"),
        ("kind: local\nnum_gpus: true\n", "num_gpus is True (bool); expected integer"),
        ("kind: local\nnum_cpus: 0\n", "num_cpus is 0 (int); expected at least 1"),
        (
            "kind: existing\naddress: auto\nmay_start: {gpu: {number: 2, cpus: 8, gpus: 1, kind: L40S}}\n",
            "may_start.gpu: unknown key 'kind'",
        ),
        (
            "kind: existing\naddress: auto\nmay_start: {a: {number: 2, cpus: 0}}\n",
            "may_start.a: cpus is 0 (int); expected at least 1",
        ),
        ("kind: local\nmin_preemption_gain_s: 0\n", "min_preemption_gain_s is 0 (int); expected more than 0"),
        ("kind: local\ngpus_per_training: 0\n", "gpus_per_training is 0 (int); expected more than 0"),
        (
            "kind: local\ngpus_per_training: 2\n",
            "gpus_per_training is 2 (int); expected 1 or a part: for more, set workers",
        ),
        ("kind: local\naddress: auto\n", "unknown key 'address'"),
        ("kind: local\nkind: aws\n", "stands twice"),
        ("kind: aws\nray: {provider: {null: 1}}\n", "key None is no text"),
        ("kind: existing\naddress: 10.0.0.5\n", "address is '10.0.0.5' (str); expected auto or host:port"),
        ("kind: existing\n", "key 'address' is missing"),
        ("kind: existing\naddress: auto\ncloud: azure\n", "cloud is 'azure' (str); expected 'aws' or 'none'"),
        ("kind: aws\nray: {cluster_name: a}\n", "key 'provider' is missing"),
        ("kind: aws\noutput: runs/x\nray: {}\n", "output is 'runs/x'; expected s3://bucket/prefix"),
        ("kind: aws\nrey: {}\n", "unknown key 'rey'; did you mean 'ray'"),
        ("- kind\n", "found list; expected a mapping"),
        ("kind: [\n", "not valid YAML"),
        ("kind: 2026-13-40\n", "not valid YAML: month must be in 1..12"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_what_is_expected(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        load_cluster(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_cluster(tmp_path / "nowhere.yaml")


HEAD, SPOT = "available_node_types.head", "available_node_types.gpu_spot_l40s"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("max_worker", 3, "unknown key 'max_worker'; did you mean 'max_workers'"),
        ("max_workers", "many", "max_workers is 'many'; expected integer"),
        ("max_workers", -1, "max_workers: -1 is less than the minimum of 0"),
        ("provider.regoin", "x", "provider: unknown key 'regoin'; did you mean 'region'"),
        ("provider.region", 3, "region is 3; expected string"),
        ("provider.type", "gcp", "type is 'gcp'; expected 'aws'"),
        ("auth.ssh_usr", "x", "auth: unknown key 'ssh_usr'; did you mean 'ssh_user'"),
        ("head_node_type", "haed", "head_node_type is 'haed'; expected one of head"),
        (f"{SPOT}.max_worker", 3, "gpu_spot_l40s: unknown key 'max_worker'; did you mean 'max_workers'"),
        (f"{SPOT}.min_workers", 9, "min_workers 9, max_workers 6; expected 0 <= min <= max"),
        (f"{SPOT}.resources.GPU", 0.5, "resources: GPU is 0.5; expected integer"),
        (f"{SPOT}.node_config.InstanceTyp", "x", "unknown key 'InstanceTyp'; did you mean 'InstanceType'"),
        (f"{SPOT}.node_config.InstanceType", 5, "InstanceType"),
        (f"{SPOT}.node_config.SubnetIds", "subnet-1", "SubnetIds is 'subnet-1'; expected a list"),
        (f"{SPOT}.node_config.InstanceMarketOptions", {"MarketTyp": "spot"}, "did you mean 'MarketType'"),
        (f"{SPOT}.node_config.InstanceMarketOptions", {"MarketType": "spto"}, "MarketType is 'spto'; expected 'spot'"),
        (f"{SPOT}.node_config.BlockDeviceMappings", [{"Ebs": {"VolumeSiz": 1}}], "did you mean 'VolumeSize'"),
        (f"{SPOT}.node_config.ImageId", None, "key 'ImageId' is missing"),
        (f"{HEAD}.node_config.InstanceMarketOptions", {"MarketType": "spot"}, "the head is on the spot market"),
        (f"{HEAD}.resources.CPU", 4, "CPU is 4; expected 0"),
        ("head_setup_commands", None, "key 'head_setup_commands' is missing"),
        ("head_start_ray_commands", ["ray start --head"], "without RAY_AUTH_MODE=token"),
        ("worker_start_ray_commands", ["ray stop"], "no `ray start`"),
        (
            "head_start_ray_commands",
            ["RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=x ray start --head --dashboard-host=0.0.0.0"],
            "--dashboard-host=0.0.0.0; expected 127.0.0.1",
        ),
    ],
)
def test_a_change_that_would_fail_on_running_machines_is_refused_before(
    aws: dict[str, Any], place: str, value: Any, message: str
) -> None:
    ray = copy.deepcopy(aws["ray"])
    *folders, name = place.split(".")
    section = ray
    for folder in folders:
        section = section[folder]
    if value is None:
        del section[name]
    else:
        section[name] = value
    with pytest.raises(ConfigError) as caught:
        check_aws(ray, where="x.yaml: ray")
    assert str(caught.value).startswith("x.yaml: ray")
    assert message in str(caught.value)


def test_rays_own_check_accepts_the_section_once_its_defaults_are_filled_in(aws: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(aws["ray"])))


def test_a_global_limit_is_spent_on_gpu_workers_first(aws: dict[str, Any]) -> None:
    # 5 workers of 8 CPUs and one GPU each; the two CPU workers find no room.
    assert most_processors({**aws["ray"], "max_workers": 5}) == (40, 5)


def test_the_memory_of_a_p4de_is_twice_that_of_a_p4d_and_goes_with_the_name_of_its_gpus(aws: dict[str, Any]) -> None:
    assert kind_of_instance("p4d.24xlarge") == GPU_KINDS["A100"]
    changed = copy.deepcopy(aws)
    changed["ray"]["available_node_types"]["gpu_on_demand"]["node_config"]["InstanceType"] = "p4de.24xlarge"
    (kind,) = (pool.gpu for pool in most_workers(changed["ray"]) if pool.name == "gpu_on_demand")
    assert kind_of_accelerator(kind.name) == kind
    assert (kind, kind.memory_gib) == (kind_of_instance("p4de.24xlarge"), 80)


def test_the_head_is_one_machine_on_demand(aws: dict[str, Any]) -> None:
    head = head_pool(aws["ray"])
    assert (head.market, head.min_nodes, head.max_nodes) == ("on demand", 1, 1)
    assert [pool.name for pool in worker_pools(aws["ray"]) if pool.market != "spot"] == ["gpu_on_demand"]


def test_the_description_divides_the_hours_by_the_trainings_at_a_time(aws: dict[str, Any]) -> None:
    text = describe(aws["ray"], training_hours=420.0)
    assert "gpu_spot_a10g: 0 to 4 x g5.2xlarge (spot)" in text
    assert "420 A100 hours of training on at most 12 at a time: 35 hours at the least" in text
    assert "at most 24 at a time: 17.5 hours" in describe(aws["ray"], training_hours=420.0, gpus_per_training=0.5)
