"""Mistakes in cluster files of every kind: one line with file, key, what was found and what was expected; no start."""

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster.registry import KINDS
from orchestrator.run_all import main

ROOT = Path(__file__).resolve().parents[2]
SLURM = {"number": 2, "cpus": 4, "time_limit_minutes": 60}
PODS = {"number": 2, "cpus": 4, "memory_gib": 8}
RIGHT = {
    "local": {"num_cpus": 2},
    "existing": {"address": "auto", "may_start": {"gpu": {"number": 2, "cpus": 8, "gpus": 1}}},
    "slurm": {"pools": {"gpu": SLURM}},
    "ssh": {"hosts": {"one": {"cpus": 4}}},
    "kubernetes": {
        "image": "example.org/image:1",
        "volumes": {"files": {"claim": "files", "at": "/shared"}},
        "pools": {"gpu": PODS},
    },
    "aws": yaml.safe_load((ROOT / "clusters/aws.yaml").read_text()),
}
GONE = object()
"""A key that is taken out."""
WORKER = "ray.available_node_types.gpu_spot_l40s"

# kind of cluster, place, what stands there by mistake, and what the line must say of place, value and what was meant.
MISTAKES = [
    ("local", "num_cpu", 2, "unknown key 'num_cpu'; did you mean 'num_cpus'?"),
    ("local", "num_cpus", "4", "num_cpus is '4' (str); expected integer"),
    ("local", "num_cpus", 0, "num_cpus is 0 (int); expected at least 1"),
    ("local", "num_gpus", -1, "num_gpus is -1 (int); expected at least 0"),
    ("local", "gpus_per_training", 2, "gpus_per_training is 2 (int); expected 1 or a part: for more, set workers"),
    ("local", "kind", "locl", "kind is 'locl'; expected one of {kinds}; did you mean 'local'?"),
    ("local", "kind", GONE, "key 'kind' is missing; expected one of {kinds}"),
    ("local", "output", 7, "output is 7 (int); expected string"),
    ("existing", "adress", "auto", "unknown key 'adress'; did you mean 'address'?"),
    ("existing", "address", "10.0.0.5", "address is '10.0.0.5' (str); expected auto or host:port, like 10.0.0.5:6379"),
    ("existing", "address", GONE, "key 'address' is missing"),
    ("existing", "cloud", "azure", "cloud is 'azure' (str); expected 'aws' or 'none'"),
    ("existing", "may_start.gpu.cpu", 8, "may_start.gpu: unknown key 'cpu'; did you mean 'cpus'?"),
    ("existing", "may_start.gpu.gpu", "l40s", "may_start.gpu: gpu is 'l40s' (str); expected Ray's name of it; did you "
     "mean 'L40S'?"),
    ("existing", "auth_token", "/nowhere/token", "/nowhere/token: no authentication token"),
    ("slurm", "pool", {}, "unknown key 'pool'; did you mean 'pools'?"),
    ("slurm", "form", "worker", "form is 'worker' (str); expected 'workers', 'allocation' or 'within'; did you mean "
     "'workers'?"),
    ("slurm", "pools.gpu.time_limit_minutes", "4:00:00", "pools.gpu: time_limit_minutes is '4:00:00' (str); expected "
     "integer"),
    ("slurm", "pools.gpu.time_limit_minutes", 3, "pools.gpu: drain_s is 120, time_limit_minutes 3; expected a limit of "
     "at least twice as long, and drain_s and the 60 s of a start: 4"),
    ("slurm", "pools.gpu.memory_gib", "48G", "pools.gpu: memory_gib is '48G' (str); expected number"),
    ("slurm", "pools.gpu.partition", "gpu long", "pools.gpu: partition is 'gpu long' (str); expected"),
    ("slurm", "pools.gpu.gpu", "A100-80gb", "pools.gpu: gpu is 'A100-80gb' (str); expected Ray's name of it, "
     "which ends with the memory, as in A100-80G"),
    ("slurm", "head", {"time_limit_minutes": 2}, "head: time_limit_minutes is 2; expected at least 3"),
    ("slurm", "batch_system", "slrum", "batch_system is 'slrum'; expected one of lsf, pbs, slurm"),
    ("ssh", "host", {}, "unknown key 'host'; did you mean 'hosts'?"),
    ("ssh", "hosts", ["one", "two"], "hosts is ['one', 'two'] (list); expected dictionary"),
    ("ssh", "hosts.one.gpu", "a100", "hosts.one: gpu is 'a100' (str); expected Ray's name of it; did you mean 'A100'?"),
    ("ssh", "hosts.one.memory", 96, "hosts.one: unknown key 'memory'; did you mean 'memory_gib'?"),
    ("ssh", "retry_s", "1m", "retry_s is '1m' (str); expected number"),
    ("ssh", "ssh_options", "-J gateway", "ssh_options is '-J gateway' (str); expected list"),
    ("kubernetes", "image", "example.org/image", "image is 'example.org/image' (str); expected an image with a tag "
     "other than latest"),
    ("kubernetes", "output", "/home/me/run", "output is '/home/me/run'; expected s3://bucket/prefix or a path on a "
     "volume (/shared)"),
    ("kubernetes", "pools.gpu.toleration", [], "pools.gpu: unknown key 'toleration'; did you mean 'tolerations'?"),
    ("kubernetes", "pools.gpu.spot", "ekss", "pools.gpu: spot is 'ekss' (str); expected 'aks', 'eks', 'gke' or "
     "'karpenter'; did you mean 'eks'?"),
    ("kubernetes", "environment", {"AWS_SECRET_ACCESS_KEY": "x"}, "environment: AWS_SECRET_ACCESS_KEY: looks like a "
     "secret; expected it in a Secret"),
    ("aws", "rey", {}, "unknown key 'rey'; did you mean 'ray'?"),
    ("aws", "output", "runs/first", "output is 'runs/first'; expected s3://bucket/prefix"),
    ("aws", "ray.max_worker", 3, "ray: unknown key 'max_worker'; did you mean 'max_workers'?"),
    ("aws", "ray.head_node_type", "haed", "head, cpu_spot, gpu_spot_l40s, gpu_spot_a10g, gpu_on_demand; did you mean "
     "'head'?"),
    ("aws", "ray.provider.region", 3, "ray: provider: region is 3; expected string"),
    ("aws", "ray.idle_timeout_minutes", 0, "ray: idle_timeout_minutes is 0; expected at least 1"),
    ("aws", f"{WORKER}.resources.GPU", GONE, "gpu_spot_l40s: resources: key 'GPU' is missing"),
    ("aws", f"{WORKER}.node_config.InstanceTyp", "x", "node_config: unknown key 'InstanceTyp'; did you mean "
     "'InstanceType'?"),
    ("aws", f"{WORKER}.node_config.SubnetIds", "subnet-1", "node_config: SubnetIds is 'subnet-1'; expected a list"),
    ("aws", f"{WORKER}.min_workers", 9, "gpu_spot_l40s: min_workers 9, max_workers 6; expected 0 <= min <= max"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Give a folder with commands first on the path that must not be called, and a home without a token."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("ray", "sbatch", "squeue", "scancel", "ssh", "rsync", "kubectl", "aws"):
        (commands / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spoilt(kind, place, value):
    content = yaml.safe_load(yaml.safe_dump({"kind": kind, **RIGHT[kind]}, sort_keys=False))
    *parents, key = place.split(".")
    part = content
    for parent in parents:
        part = part[parent]
    if value is GONE:
        del part[key]
    else:
        part[key] = value
    return content


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake[0]} {mistake[1]}")
def test_a_mistake_is_one_line_and_nothing_is_started(place, capsys, mistake):
    kind, where, value, message = mistake
    path = place / "cluster.yaml"
    path.write_text(yaml.safe_dump(spoilt(kind, where, value), sort_keys=False))
    assert main(["--cluster", str(path), "--only", "T1-lung-fold0"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert message.format(kinds=", ".join(sorted(KINDS))) in line
    is_of_another_file = where == "auth_token"
    assert is_of_another_file or re.match(rf"error: {path}: ", line)
    assert sorted(found.name for found in place.iterdir()) == ["bin", "cluster.yaml"]


def test_the_table_has_forty_and_spares_no_kind():
    assert len(MISTAKES) >= 40
    assert {kind for kind, *_ in MISTAKES} == set(KINDS)
    assert set(RIGHT) == set(KINDS)
