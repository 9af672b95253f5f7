"""By which address a driver's machine is told to others, and what happens where the folder of all takes no file."""

import errno
import io
import os
import socket

import pytest
import yaml
from batch_phantoms import played_slurm

from orchestrator.cluster import environment, ray_head
from orchestrator.cluster.ray_head import own_address
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ConfigError
from orchestrator.run_all import main


def test_an_address_is_taken_as_it_is_said_and_one_in_a_network_is_found():
    assert own_address("login1") == "login1"
    assert own_address("127.0.0.0/8") == "127.0.0.1"
    with pytest.raises(
        ConfigError, match=r"198\.51\.100\.0/24: this machine is .* expected one in that network|no way to"
    ):
        own_address("198.51.100.0/24")


def test_without_a_way_to_others_an_address_is_asked_for(monkeypatch):
    class NoRoute(socket.socket):
        def connect(self, _):
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr(ray_head.socket, "socket", NoRoute)
    with pytest.raises(ConfigError, match=r"knows no way to others \(Network is unreachable\); expected `address`"):
        own_address(None)


def test_the_network_of_a_driver_that_is_a_job_is_told_to_it(tmp_path):
    content = {"kind": "slurm", "address": "192.168.4.0/24", "head": {"time_limit_minutes": 60}}
    content["pools"] = {"cores": {"number": 1, "time_limit_minutes": 60}}
    path = tmp_path / "slurm.yaml"
    path.write_text(yaml.safe_dump(content))
    inner = load_cluster(path)._driver_content()
    path.write_text(yaml.safe_dump(inner))
    assert load_cluster(path).address == "192.168.4.0/24"


@pytest.mark.parametrize("head", [{}, {"head": {"time_limit_minutes": 60}}])
def test_a_full_disk_below_the_folder_of_all_is_one_line(tmp_path, monkeypatch, capsys, head):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    played_slurm(tmp_path, monkeypatch)
    content = {"kind": "slurm", "folder": str(tmp_path / "shared"), "address": "127.0.0.1"} | head
    content["pools"] = {"cores": {"number": 1, "time_limit_minutes": 60}}
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(content | ({"address": None} if head else {})))
    real = io.open

    def full(path, mode="r", *arguments, **options):
        if "shared" in str(path) and mode[0] in "wax":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(io, "open", full)
    words = ["--cluster", str(tmp_path / "slurm.yaml"), "--output", str(tmp_path / "run"), "--only", "T1-lung"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "Disk quota exceeded; expected a folder that all machines of the run see, with room for its files" in told


def test_a_token_is_made_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    path = environment.create_token(tmp_path / "token")
    assert len(path.read_text()) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_token_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "token"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="expected to write a token there: RAY_AUTH_TOKEN_PATH names another file"):
        environment.ensure_token()
