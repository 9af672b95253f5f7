"""An AWS that is played in network namespaces: moto gives out machines, each of which is a host with a real sshd.

No packet finds a way out: hosts have one card each, on a bridge in a namespace of its own.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import boto3
import yaml

from bench.instruments.network_hosts import SUBNET, Host, Network, missing

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("sshd", "ssh", "ssh-keygen", "rsync")
ENDPOINT = f"http://{SUBNET}.1:5000"
REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "played", "AWS_SECRET_ACCESS_KEY": "played"}
SSHD = """\
HostKey {base}/host_key
AuthorizedKeysFile {base}/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
PidFile none
MaxStartups 100
"""
START_S = 60.0
CLONE_NEWNET = 0x40000000


def why_not() -> str:
    """Return why hosts cannot be started here; empty if they can."""
    if reason := missing():
        return reason
    places = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=places) is None]
    return f"{absent[0]} is not installed (Debian's openssh-server and rsync)" if absent else ""


class PlayedAws:
    """Machines of an emulated AWS, by their ids."""

    def __init__(self, base: Path) -> None:
        """Start the network, the user's own machine, and moto on it.

        Parameters
        ----------
        base
            An empty folder outside of `/tmp`, of which every host has its own.
        """
        self.base = base
        self.hosts: dict[str, Host] = {}
        """Of machines that run."""
        self.ever: list[str] = []
        """All that there were."""
        self._home = base / "home"
        self._network = Network()
        self._ended = threading.Event()
        (base / "passwd").write_text(f"ubuntu:x:0:0::{self._home}:/bin/bash\nsshd:x:105:65534::/run/sshd:/bin/false\n")
        (base / "sshd_config").write_text(SSHD.format(base=base))
        (base / "authorized_keys").touch()
        Path("/run/sshd").mkdir(exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / "host_key")], check=True)
        self.laptop = self._host("laptop", 1)
        with (base / "moto.log").open("wb") as log:
            self._moto = self.laptop.start(
                [sys.executable, "-m", "moto.server", "-H", f"{SUBNET}.1", "-p", "5000"],
                environment=os.environ | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
                output=log,
            )
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._problems: list[BaseException] = []
        self._keeper = threading.Thread(target=self._keep_up, daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """End every host."""
        self._ended.set()
        self._keeper.join()
        for machine_id in list(self.hosts):
            self._end(machine_id)
        self.laptop.kill()
        self._moto.wait()
        self._network.close()

    def environment(self) -> Mapping[str, str]:
        """Return that of the user's own machine."""
        kept = {name: os.environ[name] for name in ("LANG", "NUMBA_CACHE_DIR") if name in os.environ}
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**kept, "PATH": path, "HOME": str(self._home), "PYTHONPATH": str(ROOT), "USER": "ubuntu"}

    def machines(self, *, state: str = "running") -> list[dict[str, object]]:
        """Return the machines in a state, as EC2 describes them."""
        return self.asked(lambda: _machines(state))

    def terminate(self, machine_id: str) -> None:
        """Take a machine away."""
        self.asked(lambda: _client("ec2").terminate_instances(InstanceIds=[machine_id]))

    def asked(self, question):
        """Return what a question answers that is asked beside moto: a thread of its own enters that namespace."""
        answers, errors = [], []

        def ask() -> None:
            try:
                self._enter()
                answers.append(question())
            except BaseException as error:  # of the test, which is told
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return answers[0]

    def _enter(self) -> None:
        descriptor = os.open(f"/proc/{self.laptop._init}/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def _host(self, name: str, number: int) -> Host:
        folder = self.base / "homes" / name
        host = Host(self._network, name=name, number=number, folder=folder, mounted_at=self._home)
        # By the route to others Ray learns its address; packets for them end at the bridge.
        host.call("ip", "route", "add", "default", "dev", "eth0")
        temporary = self.base / "temporary" / name
        temporary.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o1777)
        host.call("mount", "--bind", str(temporary), "/tmp")
        host.call("mount", "--bind", str(self.base / "passwd"), "/etc/passwd")
        (folder / ".aws").mkdir(exist_ok=True)
        (folder / ".aws" / "config").write_text(f"[default]\nregion = {REGION}\nendpoint_url = {ENDPOINT}\n")
        keys = "\n".join(f"{name.lower()} = {value}" for name, value in CREDENTIALS.items())
        (folder / ".aws" / "credentials").write_text(f"[default]\n{keys}\n")
        return host

    def _keep_up(self) -> None:
        """Start and end hosts as moto gives machines out and takes them back."""
        try:
            self._enter()
            while not self._ended.wait(2.0):
                with suppress(OSError):
                    found = {str(machine["InstanceId"]): machine for machine in _machines("running")}
                    self._follow(found)
        except BaseException as error:
            self._problems.append(error)

    def _follow(self, found: Mapping[str, Mapping[str, object]]) -> None:
        for machine_id in set(self.hosts) - set(found):
            self._end(machine_id)
        for machine_id in set(found) - set(self.hosts):
            self._begin(machine_id, found[machine_id])

    def _begin(self, machine_id: str, machine: Mapping[str, object]) -> None:
        self._authorize()
        number = int(str(machine["PrivateIpAddress"]).rpartition(".")[2])
        host = self._host(machine_id, number)
        with (self.base / f"sshd-{machine_id}.log").open("wb") as log:
            sshd = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self.base / "sshd_config")]
            started = host.start(sshd, environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, output=log)
        self._daemons[machine_id] = started
        self.hosts[machine_id] = host
        self.ever.append(machine_id)

    def _end(self, machine_id: str) -> None:
        self.hosts.pop(machine_id).kill()
        self._daemons.pop(machine_id).wait()

    def _authorize(self) -> None:
        """Let in who holds the key pair that Ray has made."""
        keys = [
            subprocess.run(["ssh-keygen", "-y", "-f", str(path)], capture_output=True, text=True, check=True).stdout
            for path in (self.base / "homes" / "laptop" / ".ssh").glob("*.pem")
        ]
        (self.base / "authorized_keys").write_text("".join(keys))


@cache
def _client(service: str):
    session = boto3.session.Session(
        aws_access_key_id="played",
        aws_secret_access_key="played",
        region_name=REGION,
    )
    return session.client(service, endpoint_url=ENDPOINT)


def _machines(state: str) -> list[dict[str, object]]:
    filters = [{"Name": "instance-state-name", "Values": [state]}]
    try:
        found = _client("ec2").describe_instances(Filters=filters)["Reservations"]
    except Exception as error:
        raise OSError(str(error)) from error
    return [machine for reservation in found for machine in reservation["Instances"]]


@contextmanager
def played_aws(base: Path) -> Iterator[PlayedAws]:
    """Context with an AWS that has a bucket, a subnet as wide as the network, and profiles of machines."""
    aws = PlayedAws(base)
    try:
        until_s = time.monotonic() + START_S
        while True:
            try:
                aws.machines()
                break
            except OSError:
                assert time.monotonic() < until_s, (base / "moto.log").read_text()
                time.sleep(0.5)
        yield aws
    finally:
        aws.close()


def filled_in(aws: PlayedAws) -> Path:
    """Return the shipped cluster file for such machines: places filled in, nothing is installed, no GPUs.

    What is changed beyond FILL-IN: Python is there already, Ray gets a part of the memory that all hosts share, and of
    the workers those without GPUs are left, small ones.
    """
    names = aws.asked(_prepare)
    text = (ROOT / "clusters" / "aws.yaml").read_text()
    for word, value in names.items():
        text = text.replace(f"FILL-IN-{word}", value)
    # What boto3 finds in its files pyarrow, with which Ray Train writes, takes from the environment alone.
    exported = f"PYTHONPATH=$HOME/nnunet-orchestrator AWS_ENDPOINT_URL={ENDPOINT} AWS_REGION={REGION}"
    text = text.replace("ulimit -n 65536;", f"ulimit -n 65536; export {exported};")
    text = text.replace(
        "--object-manager-port=8076", "--object-manager-port=8076 --memory=3221225472 --object-store-memory=104857600"
    )
    content = yaml.safe_load(text)
    del content["data"], content["cpus_per_training"]
    ray = content["ray"]
    ray["provider"]["use_internal_ips"] = True
    kinds = ray["available_node_types"]
    ray["available_node_types"] = {"head": kinds["head"], "cpu_spot": kinds["cpu_spot"]}
    kinds["cpu_spot"]["resources"] = {"CPU": 1, "GPU": 0}
    venv = Path(sys.prefix)
    ray["setup_commands"] = [f"ln -sfn {venv} ~/venv", ray["setup_commands"][2]]
    path = aws.base / "homes" / "laptop" / "aws.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _prepare() -> dict[str, str]:
    """Make what a user of AWS has; returns what stands for each FILL-IN."""
    ec2, iam = _client("ec2"), _client("iam")
    vpc = ec2.create_vpc(CidrBlock=f"{SUBNET}.0/24")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=f"{SUBNET}.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="trainings", Description="x", VpcId=vpc)["GroupId"]
    for name in ("head", "worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    _client("s3").create_bucket(Bucket="trainings")
    return {
        "bucket": "trainings",
        "image-id": ec2.describe_images()["Images"][0]["ImageId"],
        "subnet-id": subnet,
        "security-group-id": group,
        "head-instance-profile": "head",
        "worker-instance-profile": "worker",
    }


def start_machine(name: str) -> str:
    """Start a machine in the subnet, as Ray would; returns its id."""
    ec2 = _client("ec2")
    subnet = ec2.describe_subnets(Filters=[{"Name": "cidr-block", "Values": [f"{SUBNET}.0/24"]}])["Subnets"][0]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}]
    image, where = ec2.describe_images()["Images"][0]["ImageId"], subnet["SubnetId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=where, TagSpecifications=tags)
    machine_id: str = made["Instances"][0]["InstanceId"]
    return machine_id


def keys_of(aws: PlayedAws, prefix: str) -> list[str]:
    """Return the objects of the bucket below a prefix."""

    def ask() -> list[str]:
        pages = _client("s3").get_paginator("list_objects_v2").paginate(Bucket="trainings", Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    return aws.asked(ask)
