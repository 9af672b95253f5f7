"""Claims about the Ray that a run starts on this machine: who reaches it, and what it leaves."""

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.errors import ClusterError
from orchestrator.ray_backend import connect, embedded
from orchestrator.storage.private_folder import MAX_SOCKET_BYTES

STRANGER = 12345
NOTEBOOK = "module://matplotlib_inline.backend_inline"
HOLD = """
import json, os, signal, sys, time
from pathlib import Path
import ray, psutil
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.ray_backend.connect import connected
if __name__ == "__main__":
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    with connected(LocalCluster(num_cpus=1, num_gpus=0), run=None) as connection:
        names = ("TMPDIR", "RAY_AUTH_TOKEN_PATH", "ORCHESTRATOR_CACHES", "MPLBACKEND", "PYTHONWARNINGS")
        found = ray.get(ray.remote(lambda: {name: os.environ.get(name) for name in names}).remote())
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        found["listeners"] = sorted(
            {tuple(socket.laddr) for process in processes for socket in process.net_connections("inet")
             if socket.status == "LISTEN"}
        )
        found["dashboard"] = connection.dashboard
        found["waits_s"] = ray._private.ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S
        print(json.dumps(found), flush=True)
        sys.stdin.read()
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers, "of signals, as before"
    print(json.dumps({name: os.environ.get(name) for name in (*names, "RAY_AUTH_MODE")}))
"""
LOOK = """
import glob, json, os, sys, urllib.error, urllib.request
ports, temporary, token = json.loads(sys.argv[1])
answers = {}
def ask(port, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body)
    request.add_header("Content-Type", "application/json")
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    except Exception:
        return 0  # no HTTP
for port in ports:
    answers[port] = [ask(port, "/api/jobs/", json.dumps({"entrypoint": "true"}).encode()), ask(port, "/api/jobs/")]
def refused(what):
    try:
        what()
    except PermissionError:
        return True
refusals = [refused(lambda: open(token).read()), refused(lambda: os.listdir(temporary)),
            refused(lambda: os.rename(temporary, temporary + "x"))]
print(json.dumps([answers, refusals]))
"""
SOCKETS = """
from ray.dashboard.subprocesses.module import SubprocessModule
from ray.dashboard.subprocesses.utils import get_socket_path
from ray.dashboard.utils import get_all_modules
print(*(get_socket_path("/s", one.__name__) for one in get_all_modules(SubprocessModule)))
"""


@pytest.fixture
def short():
    """Folder with a short path, as all temporary folders of systems have."""
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp") as name:
        Path(name).chmod(0o1777)
        yield Path(name)


def start(home, **more):
    home.mkdir(exist_ok=True)
    names = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", HOLD]
    environment = names | {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])} | more
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def found(process):
    return json.loads(process.stdout.readline())


def test_only_this_user_reaches_it_and_nothing_of_it_is_left(short, tmp_path):
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    readable = tmp_path / "home" / ".ray" / "auth_token"
    readable.write_text("0" * 64)
    readable.chmod(0o644)
    (short / "ray").mkdir()
    odd = {"RAY_AUTH_MODE": "disabled", "MPLBACKEND": NOTEBOOK, "PYTHONWARNINGS": "error::UserWarning"}
    process = start(tmp_path / "home", TMPDIR=str(short), **odd)
    state = found(process)

    assert state["listeners"]
    assert {address.removeprefix("::ffff:") for address, _ in state["listeners"]} == {"127.0.0.1"}
    token, folder = Path(state["RAY_AUTH_TOKEN_PATH"]), Path(state["TMPDIR"]).parent
    assert (token.parent, folder.parent) == (folder, short / f"orch-{os.geteuid()}")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]
    assert (state["ORCHESTRATOR_CACHES"], token.read_text() != "0" * 64) == (str(short), True)
    assert state["dashboard"].endswith(f"asks for the token in {token}")
    # A launch, or another program, may need that one: it is closed.
    assert [stat.S_IMODE(path.stat().st_mode) for path in (readable, readable.parent)] == [0o600, 0o700]

    assert state["waits_s"] >= 600, "beside other work it takes more than Ray's minute"
    assert state["PYTHONWARNINGS"] is None, "Ray's own processes warn"
    assert state["MPLBACKEND"] == "agg", "nnU-Net cannot be imported where the package of a notebook is missing"

    after, _ = process.communicate()
    assert process.returncode == 0
    assert '"RAY_AUTH_MODE": "disabled"' in after, "the environment is as before"
    assert f'"TMPDIR": "{short}"' in after
    assert NOTEBOOK in after
    assert "error::UserWarning" in after
    assert sorted(path.name for path in short.iterdir()) == ["ray"]
    assert not list((short / "ray").iterdir())


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or not Path("/usr/bin/python3").exists(),
    reason="only root can be another user, with setpriv, and that one needs a Python of the system",
)
def test_another_user_neither_enters_its_folder_nor_runs_anything_by_it(short, tmp_path):
    process = start(tmp_path / "home", TMPDIR=str(short))
    state = found(process)
    folder, token = Path(state["TMPDIR"]).parent, state["RAY_AUTH_TOKEN_PATH"]
    stranger = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "/usr/bin/python3", "-c"]
    argument = json.dumps([[port for _, port in state["listeners"]], str(folder), token])
    looked = subprocess.run([*stranger, LOOK, argument], capture_output=True, text=True, check=True, cwd="/")
    process.communicate()
    answers, refusals = json.loads(looked.stdout)
    assert refusals == [True, True, True]
    # 401: the token is missing; 405, 200: the page of metrics can be read; 0: gRPC, which speaks no HTTP/1.
    posted, asked = map(set, zip(*answers.values(), strict=True))
    assert posted <= {0, 401, 405}
    assert 401 in posted
    assert asked <= {0, 200, 401}


def test_what_a_killed_run_has_left_is_removed_by_the_next_one(short, tmp_path):
    process = start(tmp_path / "home", TMPDIR=str(short))
    left = Path(found(process)["TMPDIR"])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left.exists()
    again = start(tmp_path / "home", TMPDIR=str(short))
    found(again)
    assert not left.exists()
    again.communicate()
    assert list(short.iterdir()) == []


def test_folders_with_long_paths_do_not_keep_it_from_starting(short, tmp_path):
    long = short / ("a_long_folder_name_as_schedulers_make_them_" * 2)
    long.mkdir()
    process = start(tmp_path / "home", TMPDIR=str(long), RAY_TMPDIR=str(long))
    temporary = Path(found(process)["TMPDIR"])
    assert len(str(temporary)) < 60
    assert temporary.resolve().is_relative_to(long), "large files belong where the user wants them"
    process.communicate()
    assert process.returncode == 0
    assert list(long.iterdir()) == []


def test_there_is_room_for_the_longest_name_of_a_socket_that_this_ray_has():
    asked = subprocess.run([sys.executable, "-W", "ignore", "-c", SOCKETS], capture_output=True, text=True, check=True)
    names = ["raylet", "plasma_store", *(path.removeprefix("/s/") for path in asked.stdout.split())]
    assert len(names) > 2, "the dashboard has parts"
    assert max(map(len, names)) == len(embedded.LONGEST_SOCKET.rpartition("/")[2])
    # Numbers of users have up to ten digits.
    assert len(f"/tmp/orch-{2**32 - 1}/r-123456{embedded.LONGEST_SOCKET}") <= MAX_SOCKET_BYTES


@pytest.mark.parametrize(("said", "num_tries"), [("The current node timed out during startup.", 2), ("no port", 1)])
def test_processes_that_are_too_slow_for_ray_are_started_once_more(monkeypatch, said, num_tries):
    tried = []

    def start_ray(**_):
        tried.append(1)
        if len(tried) == 1:
            raise RuntimeError(said)
        return "context"

    monkeypatch.setattr(embedded.ray, "init", start_ray)
    with suppress(RuntimeError):
        assert embedded._start(Mock(), folder=Mock(path=Path("/tmp/x"))) == "context"
    assert len(tried) == num_tries


@pytest.mark.parametrize(
    ("said", "advice"),
    [("The current node timed out during startup.", "the machine may be overloaded"), ("no room", "free space there")],
)
def test_what_helps_follows_from_what_ray_says(monkeypatch, said, advice):
    monkeypatch.setattr(connect, "embedded_ray", Mock(side_effect=RuntimeError(said)))
    with pytest.raises(ClusterError, match=advice):
        connect.connected(LocalCluster(num_cpus=1, num_gpus=0), run=None).__enter__()


def test_a_ray_that_is_there_already_is_refused_and_left_alone(monkeypatch):
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(connect.ray, "shutdown", Mock(side_effect=AssertionError("of somebody else")))
    for _ in range(2):
        with pytest.raises(ClusterError, match="connected to a Ray already"):
            connect.connected(LocalCluster(num_cpus=1, num_gpus=0), run=None).__enter__()


def test_two_runs_of_one_process_do_not_share_its_ray(monkeypatch):
    monkeypatch.setattr(connect, "embedded_ray", lambda _: nullcontext((Mock(dashboard_url=""), None)))
    monkeypatch.setattr(connect.ray, "nodes", list)
    cluster = LocalCluster(num_cpus=1, num_gpus=0)
    with (
        connect.connected(cluster, run=None),
        pytest.raises(ClusterError, match="another run of this process"),
        connect.connected(cluster, run=None),
    ):
        pass
    with connect.connected(cluster, run=None):
        pass


@pytest.mark.parametrize(
    ("limit", "is_refused"), [(200, True), (429, True), (430, False), (resource.RLIM_INFINITY, False)]
)
def test_a_limit_of_threads_that_a_ray_cannot_keep_is_told_before_it_is_started(monkeypatch, limit, is_refused):
    own = len(list(Path("/proc/self/task").iterdir()))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    monkeypatch.setattr(os, "getuid", lambda: 1003)
    monkeypatch.setattr(embedded, "_num_threads", lambda: own)
    told = rf"may have {limit} threads \(`ulimit -u`\) and has {own}; expected room for about 430 of a run on 2"
    with pytest.raises(ClusterError, match=told) if is_refused else nullcontext():
        embedded.check_threads(2)


def test_root_has_no_limit_of_threads(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, 1))
    monkeypatch.setattr(os, "getuid", lambda: 0)
    embedded.check_threads(2)


def test_threads_of_this_user_are_counted():
    assert embedded._num_threads() >= len(list(Path("/proc/self/task").iterdir()))
