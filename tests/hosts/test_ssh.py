"""`kind: ssh`: hosts are asked before anything starts; one that is lost is named, and works again once it is back."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from test_preemption import DRIVER

from orchestrator.cluster.config import RunName
from orchestrator.cluster.hosts.facts import facts_here
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ClusterError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
"""
CLIENT = """\
Host one two three
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  LogLevel ERROR
"""


def write(folder, **values):
    content = {"kind": "ssh", "folder": str(folder / "shared"), "address": "127.0.0.1", "retry_s": 3} | values
    path = folder / "hosts.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Play ssh: `gone` does not answer, `other` has another Ray and other files, every other host is this machine."""
    facts = asdict(facts_here()) | {"unseen": ["/data/out"]}
    facts["versions"] = {**facts["versions"], "ray": "2.9.0"}
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/bash\n"
        'host="${@: -2:1}"\n'
        'if [ "$host" = gone ]; then echo "ssh: connect to host gone port 22: No route to host" >&2; exit 255; fi\n'
        'if [ "$host" = latin ]; then printf "Gr\\xfcsse: kein Zugang\\n" >&2; exit 1; fi\n'
        f"if [ \"$host\" = other ]; then echo '{json.dumps(facts)}'; exit; fi\n"
        'exec bash -c "${@: -1}"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def reach(folder, *hosts, **values):
    config = load_cluster(write(folder, hosts={host: {} for host in hosts}, **values))
    with config.reach(RunName(output=str(folder / "run"), study="x", data=values.get("data"))):
        raise AssertionError("it was reached")


def test_hosts_with_other_versions_or_files_are_refused_with_all_that_is_different(played):
    with pytest.raises(ConfigError) as caught:
        reach(played, "one", "gone", "other")
    here = facts_here().versions["ray"]
    assert f"other: ray is 2.9.0; here it is {here}" in str(caught.value)
    assert "other: /data/out: not the folder that this machine sees" in str(caught.value)
    assert list((played / "run").iterdir()) == []


def test_data_that_a_host_does_not_see_are_told(played):
    with pytest.raises(ConfigError, match=r"one: /nowhere/downloads: not the folder that this machine sees"):
        reach(played, "one", data="/nowhere/downloads")


def test_where_no_host_answers_the_reasons_are_told(played):
    with pytest.raises(ClusterError, match=r"no host answers: gone: ssh: connect to host gone port 22: No route to"):
        reach(played, "gone")


def test_what_a_host_says_in_another_encoding_is_told_as_well(played):
    with pytest.raises(ConfigError, match=r"latin: Gr.sse: kein Zugang: it was reached"):
        reach(played, "latin")


def test_a_python_below_home_is_that_of_the_host(played):
    python = played / "my venv" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho played >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=r"one: played: it was reached, and ~/my venv/python does not say what it"):
        reach(played, "one", python="~/my venv/python")


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("/usr/bin/python3", r"one: .*No module named .*: it was"),
        ("/nowhere/python", r"one: .*/nowhere/python: .*: it"),
    ],
)
def test_a_host_without_the_package_or_python_stops_the_start_beside_one_that_does_not_answer(played, python, told):
    with pytest.raises(ConfigError, match=told):
        reach(played, "gone", "one", python=python, setup=["unset PYTHONPATH", "cd /"])


def test_what_a_shell_says_after_the_answer_changes_nothing(played):
    with pytest.raises(ConfigError, match=r"hosts\.yaml: one: /nowhere/downloads: not the folder that"):
        reach(
            played, "one", data="/nowhere/downloads", setup=["trap 'echo bye' EXIT", "echo welcome", 'exec() { "$@"; }']
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hosts": {}}, "hosts is {} (dict); expected"),
        ({"hosts": {"-oProxyCommand=x": {}}}, "hosts"),
        ({"hosts": {"one": {"cpu": 1}}}, "hosts.one: unknown key 'cpu'; did you mean 'cpus'?"),
        ({"host": {"one": {}}}, "unknown key 'host'; did you mean 'hosts'?"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, values, message):
    with pytest.raises(ConfigError) as caught:
        load_cluster(write(tmp_path, **values))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hosts_are_simulated_with_what_the_file_says_of_them(tmp_path):
    config = load_cluster(write(tmp_path, hosts={"one": {"cpus": 16, "gpus": 2, "gpu": "A100"}}))
    (pool,) = config.imagined(None)
    assert (pool.name, pool.max_nodes, pool.cpus, pool.gpus, pool.gpu.memory_gib) == ("one", 1, 16, 2, 40)
    with pytest.raises(ConfigError, match=r"hosts\.one: no cpus; expected a number"):
        load_cluster(write(tmp_path, hosts={"one": {}})).imagined(None)


def start_sshd(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("host_key", "user_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    (folder / "sshd_config").write_text(CONFIGURATION.format(port=port, folder=folder))
    (folder / "ssh_config").write_text(CLIENT.format(port=port, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        daemon = subprocess.Popen([shutil.which("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    wait_until(lambda: "listening" in (folder / "sshd.log").read_text(), limit_s=30)
    return daemon


def wait_until(condition, *, limit_s):
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.2)


def watchers_of(host, folder):
    """Return the processes of ssh by which a host works."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0] == b"ssh" and host.encode() in words and str(folder).encode() in b" ".join(words):
                found.append(int(path.parent.name))
    return found


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.skipif(shutil.which("sshd") is None, reason="sshd is not installed (Debian's openssh-server)")
def test_a_host_that_is_cut_off_is_named_works_again_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    daemon = start_sshd(tmp_path)
    setup = [f"export PYTHONPATH={ROOT}", f"export HOME={tmp_path}"]
    hosts = {name: {"cpus": 1, "memory_gib": 4} for name in ("one", "two", "three")}
    cluster = write(tmp_path, hosts=hosts, setup=setup, ssh_options=["-F", str(tmp_path / "ssh_config")])
    words = [
        sys.executable,
        "-c",
        DRIVER,
        "--preset",
        "tiny",
        "--cluster",
        str(cluster),
        "--only",
        "T1-infection-fold0",
    ]
    log = tmp_path / "driver.log"
    try:
        with log.open("wb") as file:
            driver = subprocess.Popen([*words, "--output", str(tmp_path / "run")], stdout=file, stderr=file)
        wait_until(lambda: list((tmp_path / "run").glob("cases/*/*")) or driver.poll() is not None, limit_s=600)
        cut = watchers_of("two", tmp_path / "shared")
        for pid in cut:
            os.kill(pid, signal.SIGKILL)
        assert driver.wait(timeout=1200) == 0, log.read_text()
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)
    assert cut
    assert "1 x two: lost" in log.read_text()
    assert "1 of 1 trainings done" in log.read_text()
    wait_until(lambda: not watchers_of("one", tmp_path / "shared"), limit_s=60)
