"""A training on a Ray cluster that is already there, with everything that is read and written on S3."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

ONLY = "T1-infection-fold0"
OUTPUT = "s3://bucket/runs/first"
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture
def s3(monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def cluster_file(s3, tmp_path):
    """A running head node with a token of its own, and the cluster file that names it."""
    token, log = tmp_path / "token", tmp_path / "ray.log"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    address = f"127.0.0.1:{free_port()}"
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--num-cpus=2"]
    command += [f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with log.open("w") as stream:
        node = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        path = tmp_path / "cluster.yaml"
        path.write_text(f"kind: existing\naddress: {address}\nauth_token: {token}\n")
        yield path
    finally:
        node.terminate()
        node.wait(timeout=300)


def run_all(cluster_file):
    command = [sys.executable, "-m", "orchestrator.run_all", "--cluster", str(cluster_file)]
    command += ["--output", OUTPUT, "--only", ONLY]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)


def test_a_run_lives_on_s3_alone(cluster_file, s3):
    first = run_all(cluster_file)
    assert first.returncode == 0, first.stdout + first.stderr
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bucket")
    keys = {item["Key"].removeprefix("runs/first/") for page in pages for item in page["Contents"]}
    assert {"run.json", f"results/{ONLY}.parquet", f"trainings/{ONLY}/training.json", "tables/summary.md"} <= keys
    # Six label maps and the record that says that they are all.
    assert sum(key.startswith(f"predictions/{ONLY}/") for key in keys) == 7
    assert not any(".tmp-" in key for key in keys)

    again = run_all(cluster_file)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of 1 trainings done" in again.stdout
