"""The commands that a launch runs, and the token that it gives to all of them."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.cluster import commands, environment
from orchestrator.cluster.commands import ShellCommands
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.processes import end_group


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home without a token."""
    monkeypatch.setenv(environment.AUTH_MODE, "disabled")
    monkeypatch.setenv(environment.AUTH_TOKEN_PATH, str(tmp_path / ".ray" / "auth_token"))
    return tmp_path


def test_a_background_command_ends_with_its_children(tmp_path: Path) -> None:
    marker = tmp_path / "child"
    with ShellCommands().background(["bash", "-c", f"sleep 60 & echo $! > {marker}; wait"]):
        deadline_s = time.monotonic() + 120
        while not (marker.exists() and marker.read_text().strip()) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        child = int(marker.read_text())
        os.kill(child, 0)
    state = Path(f"/proc/{child}/stat")
    deadline_s = time.monotonic() + 120
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_background_command_that_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "RESTART_PAUSE_S", 0.02)
    starts = tmp_path / "starts"
    with ShellCommands().background(["bash", "-c", f"echo . >> {starts}"]):
        deadline_s = time.monotonic() + 120
        while not (starts.exists() and starts.read_text().count(".") >= 3) and time.monotonic() < deadline_s:
            time.sleep(0.02)
    number = starts.read_text().count(".")
    assert number >= 3
    time.sleep(0.2)
    assert starts.read_text().count(".") == number


def test_a_failing_command_is_named_with_its_exit_code() -> None:
    with pytest.raises(ClusterError, match="false: failed with exit code 1"):
        ShellCommands().call(["false"])


def test_a_token_that_others_can_read_is_closed_with_a_line(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = environment.ensure_token()
    assert os.environ[environment.AUTH_MODE] == "token"
    assert environment.ensure_token() == path
    assert not caplog.records
    path.chmod(0o644)
    path.parent.chmod(0o755)
    environment.ensure_token()
    assert [place.stat().st_mode & 0o777 for place in (path, path.parent)] == [0o600, 0o700]
    assert f"{path}: other users may have read this token" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_token_of_another_user_is_refused(home: Path) -> None:
    path = environment.ensure_token()
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        environment.ensure_token()


def test_a_token_that_others_could_exchange_is_refused(home: Path) -> None:
    path = environment.ensure_token()
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    moved = path.rename(home / "open" / "token")
    with pytest.raises(ConfigError, match="may exchange the token"):
        environment.use_token(moved)


def test_an_empty_or_missing_token_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="no authentication token"):
        environment.use_token(home / "nowhere")
    (home / "empty").touch(mode=0o600)
    with pytest.raises(ConfigError, match="is empty"):
        environment.use_token(home / "empty")


@pytest.mark.parametrize("leader", ["exec sleep 60", "trap '' TERM; sleep 60; sleep 60"])
def test_a_group_ends_with_those_of_it_that_do_not_heed_a_request(leader: str) -> None:
    """The child ignores it, and outlives a leader that does not."""
    script = f"(trap '' TERM; echo begun; exec sleep 60) & {leader}"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"begun\n"
        end_group(process, within_s=0.2)
        # Whoever is left would keep it open.
        assert process.stdout.read() == b""
        assert process.returncode < 0
