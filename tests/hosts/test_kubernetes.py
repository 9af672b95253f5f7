"""`kind: kubernetes`: what its files mean, the manifest that follows, and a run behind a kubectl that is played."""

import io
import shlex
import tarfile
from pathlib import Path

import pytest
import yaml
from kubernetes_played import play, played_kubectl, pod, state

from orchestrator.cluster.config import Driver, RunName
from orchestrator.cluster.kubernetes import follow
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ConfigError
from orchestrator.run_all import main

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "clusters" / "kubernetes.yaml"
FIELDS = yaml.safe_load((ROOT / "tests" / "hosts" / "rayjob_fields.yaml").read_text())
GPU = {"number": 4, "cpus": 8, "memory_gib": 48, "gpus": 1}
BASE = {
    "kind": "kubernetes",
    "image": "example.org/orchestrator:1",
    "volumes": {"shared": {"claim": "files", "at": "/shared"}},
    "pools": {"gpu": GPU},
}
FULL = BASE | {
    "output": "s3://bucket/run",
    "data": "/shared/data",
    "s3_secret": "s3-keys",
    "token_secret": "ray-token",
    "pull_secrets": ["registry"],
    "service_account": "trainings",
    "environment": {"AWS_ENDPOINT_URL": "https://minio.example.org"},
    "head": {"node_selector": {"kind": "small"}, "tolerations": [{"operator": "Exists"}]},
    "pools": {
        "gpu": GPU | {"spot": "gke", "scratch_gib": 100, "gpu": "A100", "drain_s": 20, "image": "example.org/gpu:1"},
        "cpu": {"number": 2, "always": 1, "cpus": 4, "memory_gib": 16, "node_selector": {"disk": "ssd"}},
    },
}


def write(folder, content):
    path = folder / "kubernetes.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def rendered(folder, content, *, output=None, keep=False):
    config = load_cluster(write(folder, content))
    output = output or config.output or "/shared/run"
    driver = Driver(
        run=RunName(output=output, study="A study; `id`", data=config.data),
        arguments=("--output", output, "--only", "T1-* $(id)"),
        training_hours=1.0,
        keep=keep,
    )
    return list(yaml.safe_load_all(config.render(driver)))


def unknown(content, fields, *, place=""):
    """Return the places of a manifest that the list of fields does not know, or knows with another type."""
    if isinstance(fields, dict):
        if not isinstance(content, dict):
            return [place]
        inner = [(f"{place}.{key}", value, fields.get(key, fields.get("*"))) for key, value in content.items()]
    elif isinstance(fields, list):
        if not isinstance(content, list):
            return [place]
        inner = [(f"{place}[]", value, fields[0]) for value in content]
    else:
        kinds = {"string": str, "quantity": str, "integer": int, "boolean": bool, None: ()}
        is_known = isinstance(content, kinds[fields]) and isinstance(content, bool) == (fields == "boolean")
        return [] if is_known else [place]
    return [found for place, value, known in inner for found in unknown(value, known, place=place)]


@pytest.mark.parametrize("content", [BASE, FULL, yaml.safe_load(SHIPPED.read_text())])
@pytest.mark.parametrize("keep", [False, True])
def test_a_manifest_holds_known_fields_alone(tmp_path, content, keep):
    config_map, job = rendered(tmp_path, content, keep=keep)
    assert unknown(job, FIELDS) == []
    assert unknown(config_map, {**FIELDS, "data": {"*": "string"}}) == []
    assert unknown({**job, "spec": {**job["spec"], "entrypont": "x", "suspend": 1}}, FIELDS) == [
        ".spec.entrypont",
        ".spec.suspend",
    ]


def test_pools_are_worker_groups_with_their_gpus_market_and_disk(tmp_path):
    _, job = rendered(tmp_path, FULL)
    gpu, cpu = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [(group["groupName"], group["minReplicas"], group["maxReplicas"]) for group in (gpu, cpu)] == [
        ("gpu", 0, 4),
        ("cpu", 1, 2),
    ]
    spec = gpu["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "example.org/gpu:1"
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "49152Mi", "nvidia.com/gpu": "1"}
    assert spec["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert spec["tolerations"] == [
        {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]
    assert spec["terminationGracePeriodSeconds"] > 20
    assert {"name": "scratch", "emptyDir": {"sizeLimit": "102400Mi"}} in spec["volumes"]
    assert {"name": "TMPDIR", "value": "/scratch/own"} in container["env"]
    assert "tolerations" not in cpu["template"]["spec"]
    assert "nvidia.com/gpu" not in cpu["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_everything_runs_confined_with_a_token_and_the_head_offers_nothing(tmp_path):
    _, job = rendered(tmp_path, FULL)
    cluster = job["spec"]["rayClusterSpec"]
    templates = [job["spec"]["submitterPodTemplate"], cluster["headGroupSpec"]["template"]]
    templates += [group["template"] for group in cluster["workerGroupSpecs"]]
    for template in templates:
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert (cluster["enableInTreeAutoscaling"], cluster["autoscalerOptions"]["idleTimeoutSeconds"]) == (True, 60)
    assert job["spec"]["shutdownAfterJobFinishes"]
    assert len(job["metadata"]["name"]) <= 47


def test_secrets_are_named_and_words_of_the_command_pass_no_shell(tmp_path):
    config_map, job = rendered(tmp_path, FULL)
    (head,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    keys = [one for one in head["env"] if "valueFrom" in one]
    assert [one["name"] for one in keys] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in keys} == {"s3-keys"}
    assert job["spec"]["entrypoint"] == "bash /etc/orchestrator/driver.sh"
    script = config_map["data"]["driver.sh"].splitlines()
    assert shlex.split(script[-1])[-4:] == ["--only", "T1-* $(id)", "--cluster", "/etc/orchestrator/cluster.yaml"]
    inner = write(tmp_path, yaml.safe_load(config_map["data"]["cluster.yaml"]))
    driver = load_cluster(inner)
    assert (driver.kind, driver.address) == ("existing", "auto")
    assert [(p.name, p.max_nodes, p.cpus, p.gpus, p.gpu.name) for p in driver.node_pools()] == [
        ("gpu", 4, 8, 1, "A100"),
        ("cpu", 2, 4, 0, ""),
    ]


def pools(**values):
    return {"pools": {"gpu": GPU | values}}


def toleration(**values):
    return pools(tolerations=[values])


WRONG = {
    "misspelled key": (pools(cpu=8), "pools.gpu: unknown key 'cpu'; did you mean 'cpus'?"),
    "no image": ({"image": None}, "image is None"),
    "image without a tag": ({"image": "example.org/orchestrator"}, "expected an image with a tag other than latest"),
    "latest image": ({"image": "orchestrator:latest"}, "expected an image with a tag other than latest"),
    "no pools": ({"pools": {}}, "pools is {}"),
    "name of a pool": ({"pools": {"GPU_1": GPU}}, "expected the name 'GPU_1' to be lower-case letters"),
    "pool named as the head": ({"pools": {"headgroup": GPU}}, "head and headgroup are names of the head"),
    "more always than at most": (pools(always=9), "pools.gpu: always is 9; expected at most number, which is 4"),
    "half a core": (pools(cpus=0.5), "pools.gpu: cpus is 0.5 (float); expected integer"),
    "kind of no GPU": (pools(gpus=0, gpu="A100"), "pools.gpu: gpu is 'A100' and gpus 0; expected gpus above 0"),
    "GPUs that Ray does not see": (pools(gpu_resource="nvidia.com/mig-1g.5gb"), "name ends with gpu"),
    "market": (pools(spot="aws"), "spot is 'aws' (str); expected 'aks', 'eks', 'gke' or 'karpenter'"),
    "label": (pools(node_selector={"a/b/c": "x"}), "expected the key 'a/b/c' to be a label"),
    "value of a label": (pools(node_selector={"spot": True}), "node_selector: spot is True (bool); expected string"),
    "value that Exists": (toleration(key="a", operator="Exists", value="b"), "expected none with operator Exists"),
    "toleration of nothing": (toleration(value="b"), "tolerations.0: operator is Equal; expected a key, or operator"),
    "effect": (toleration(key="a", effect="NoScheduel"), "effect is 'NoScheduel' (str); expected 'NoSchedule'"),
    "claim": ({"volumes": {"shared": {"claim": "My_Files", "at": "/shared"}}}, "claim is 'My_Files' (str); expected"),
    "relative mount": ({"volumes": {"a": {"claim": "a", "at": "shared"}}}, "expected an absolute path"),
    "mount over the image": ({"volumes": {"a": {"claim": "a", "at": "/tmp/x"}}}, "belongs to the image"),
    "two at one place": (
        {"volumes": {"a": {"claim": "a", "at": "/s"}, "b": {"claim": "b", "at": "/s"}}},
        "volumes.b: at is '/s', as of a; expected another path",
    ),
    "volume of every pod": ({"volumes": {"scratch": {"claim": "a", "at": "/s"}}}, "the name is taken by a volume"),
    "output of this machine": ({"output": "/home/me/run"}, "output is '/home/me/run'; expected s3://bucket/prefix or"),
    "data of this machine": ({"data": "downloads"}, "data is 'downloads'; expected s3://bucket/prefix or a path on"),
    "S3 without keys": ({"output": "s3://b/x"}, "expected s3_secret or service_account, with which pods reach it"),
    "a secret in the file": ({"environment": {"AWS_SECRET_ACCESS_KEY": "abc123"}}, "looks like a secret; expected it"),
    "a key in the file": ({"environment": {"WANDB_API_KEY": "abc123"}}, "looks like a secret; expected it"),
    "an account's key": ({"environment": {"AZURE_STORAGE_ACCOUNT_KEY": "abc123"}}, "looks like a secret; expected it"),
    "a password in a value": ({"environment": {"HTTPS_PROXY": "http://me:abc123@proxy"}}, "looks like a secret"),
    "a variable of KubeRay": ({"environment": {"RAY_enable_autoscaler_v2": "1"}}, "it is set for every pod"),
    "name of a variable": ({"environment": {"A-B": "1"}}, "environment: A-B: expected a name of letters"),
    "value of a variable": ({"environment": {"A": 1}}, "environment: A is 1 (int); expected string"),
    "namespace": ({"namespace": "My_Space"}, "expected a namespace"),
    "user": ({"user": 0}, "user is 0 (int); expected at least 1"),
    "idle time": ({"idle_s": 60.5}, "idle_s is 60.5 (float); expected integer"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_with_its_place(tmp_path, name):
    values, message = WRONG[name]
    path = write(tmp_path, BASE | values)
    with pytest.raises(ConfigError) as caught:
        load_cluster(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "abc123" not in str(caught.value)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(follow, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(follow, "RECONNECT_S", 0.01)
    objects = played_kubectl(tmp_path, monkeypatch)
    (objects / "persistentvolumeclaim-files").touch()
    return objects


def run(folder, *more, content=BASE):
    path = write(folder, content)
    words = ["--only", "T1-lung", "--output", "/shared/run", *more]
    return main(["--cluster", str(path), *words])


def packed_tables():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in {"tables/dsc.md": "| a |\n", "../escaped.md": "x", "other/x.md": "x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_a_run_is_applied_followed_fetched_and_deleted(cluster, tmp_path, capsys):
    play(
        cluster,
        state(deployment="Initializing"),
        state("RUNNING", "Running"),
        state("SUCCEEDED", "Complete"),
        pods=[pod("gpu", message="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", name="head")] * 2,
        packed=packed_tables(),
    )
    assert run(tmp_path) == 0
    name = RunName(output="/shared/run", study="").short
    shown = capsys.readouterr().out
    assert f"RayJob {name}: applied\n" in shown
    assert "waiting: 2 x gpu: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.\n" in shown
    assert shown.count("\none\n") == shown.count("\ntwo\n") == 1
    assert (tmp_path / "runs" / name / "tables" / "dsc.md").read_text() == "| a |\n"
    assert [path.name for path in tmp_path.rglob("*.md")] == ["dsc.md"]
    assert not (cluster / "rayjob.yaml").exists()


def test_a_driver_that_fails_and_a_lost_connection_are_told(cluster, tmp_path, capsys):
    failed = state("FAILED", "Failed", reason="AppFailed", message="exit code 1")
    play(cluster, state("RUNNING", "Running"), state("RUNNING", "Running"), failed, log="one\n")
    assert run(tmp_path, "--keep") == 1
    shown = capsys.readouterr().out
    assert shown.count("one\n") == 1
    assert "Failed, AppFailed: exit code 1" in shown
    assert "The pods go on running. To end them: the same command with --down." in shown
    assert (cluster / "rayjob.yaml").exists()
    assert run(tmp_path, "--down") == 0
    assert not (cluster / "rayjob.yaml").exists()


def test_a_run_that_is_there_is_attached_to_and_one_that_has_ended_is_made_anew(cluster, tmp_path, capsys):
    (cluster / "rayjob.yaml").touch()
    play(cluster, state("RUNNING", "Running"), state("RUNNING", "Running"), state("SUCCEEDED", "Complete"))
    assert run(tmp_path) == 0
    assert "there already, attached" in capsys.readouterr().out
    assert "apply" not in (cluster / "commands.txt").read_text()
    (cluster / "rayjob.yaml").touch()
    play(cluster, state("SUCCEEDED", "Complete"))
    assert run(tmp_path, "--keep") == 0
    verbs = [line.split()[0] for line in (cluster / "commands.txt").read_text().splitlines()]
    assert verbs.index("delete", verbs.index("delete") + 1) < verbs.index("apply")


def test_a_run_that_does_something_else_at_this_output_is_named_and_left_alone(cluster, tmp_path, capsys):
    play(cluster, state("RUNNING", "Running"), state("SUCCEEDED", "Complete"))
    assert run(tmp_path, "--keep") == 0
    play(cluster, state("RUNNING", "Running"))
    assert run(tmp_path, "--seed", "5") == 2
    refused = capsys.readouterr().err
    asked = (
        "/shared/run is at work with: orchestrator.run_all --output /shared/run --preset smoke --seed 0 --only T1-lung"
    )
    assert f"{asked}; expected the same" in refused
    play(cluster, state("RUNNING", "Running"), state("SUCCEEDED", "Complete"))
    assert run(tmp_path, "--keep") == 0
    assert "there already, attached" in capsys.readouterr().out


def test_what_the_operator_refuses_is_said_in_its_words(cluster, tmp_path, capsys):
    play(cluster, state(deployment="ValidationFailed", reason="ValidationFailed", message="worker group x\nis bad"))
    assert run(tmp_path) == 1
    assert "KubeRay refuses it: ValidationFailed: worker group x is bad" in capsys.readouterr().err


QUOTA = 'pods "x-gpu-{drawn}" is forbidden: exceeded quota: team,\nlimited: limits.memory=64Gi'


@pytest.mark.parametrize(
    "failures",
    [
        [
            {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": told}]}
            for told in (QUOTA.format(drawn="k2fp"), QUOTA.format(drawn="9xwz"))
        ],
        # As operators said it that knew no conditions.
        [{"reason": f"FailedCreate: {QUOTA.format(drawn='k2fp')}"}] * 2,
    ],
)
def test_why_kubernetes_makes_no_pods_is_told_once(cluster, tmp_path, capsys, failures):
    fine = {"conditions": [{"type": "ReplicaFailure", "status": "False", "reason": "x"}]}
    looks = [state(deployment="Initializing", rayClusterStatus=told) for told in (fine, *failures)]
    play(cluster, *looks, state("RUNNING", "Running"), state("SUCCEEDED", "Complete"), packed=packed_tables())
    assert run(tmp_path) == 0
    shown = capsys.readouterr().out
    told = [line for line in shown.splitlines() if line.startswith("waiting")]
    assert told == [
        "waiting: for KubeRay",
        "waiting: FailedCreate: a pod is forbidden: exceeded quota: team, limited: limits.memory=64Gi",
    ]


def test_a_log_that_may_not_be_read_is_told_once_and_the_run_is_followed_on(cluster, tmp_path, capsys):
    refusal = 'Error from server (Forbidden): pods "x" is forbidden: User "u" cannot get resource "pods/log"'
    (cluster / "no-logs").write_text(f"{refusal}\n")
    play(cluster, *[state("RUNNING", "Running")] * 4, state("SUCCEEDED", "Complete"), packed=packed_tables())
    assert run(tmp_path) == 0
    assert capsys.readouterr().out.count(f"the log of the driver cannot be read: {refusal}\n") == 1


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ('error: no matches for kind "RayJob" in version "ray.io/v1"', "expected KubeRay's operator"),
        ('error: the server doesn\'t have a resource type "rayjobs"', "expected KubeRay's operator"),
    ],
)
def test_a_cluster_without_the_operator_is_told_before_anything_starts(cluster, tmp_path, capsys, told, message):
    (cluster / "refuses").write_text(told)
    assert run(tmp_path) == 2
    assert message in capsys.readouterr().err


def test_a_claim_secret_or_service_account_that_is_not_there_is_told_before_anything_starts(cluster, tmp_path, capsys):
    play(cluster, state())
    assert run(tmp_path, content=BASE | {"token_secret": "ray-token"}) == 2
    assert "secret ray-token: is not in the namespace; nothing was started" in capsys.readouterr().err
    assert run(tmp_path, content=BASE | {"service_account": "trainings"}) == 2
    assert "serviceaccount trainings: is not in the namespace; nothing was started" in capsys.readouterr().err
    (cluster / "persistentvolumeclaim-files").unlink()
    assert run(tmp_path) == 2
    assert "persistentvolumeclaim files: is not in the namespace" in capsys.readouterr().err
    assert not (cluster / "rayjob.yaml").exists()


def test_an_output_that_pods_do_not_reach_is_told_before_anything_starts(cluster, tmp_path, capsys):
    path = write(tmp_path, BASE)
    assert main(["--cluster", str(path), "--only", "T1-lung", "--output", str(tmp_path / "run")]) == 2
    assert "expected s3://bucket/prefix or a path on a volume (/shared)" in capsys.readouterr().err
    assert not (cluster / "commands.txt").exists()


def test_render_prints_what_would_be_applied_and_calls_nothing(cluster, tmp_path, capsys):
    assert run(tmp_path, "--render") == 0
    kinds = [content["kind"] for content in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds == ["ConfigMap", "RayJob"]
    assert not (cluster / "commands.txt").exists()
    assert main(["--render"]) == 2
    assert "--render: nothing is submitted as a text" in capsys.readouterr().err
