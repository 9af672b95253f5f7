"""A Ray of this run alone, on this machine: in a private folder, on the loopback interface, with a token of its own."""

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray._private import ray_constants, utils
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from orchestrator.cluster.config import EmbeddedRay
from orchestrator.cluster.environment import (
    AUTH_MODE,
    AUTH_TOKEN,
    AUTH_TOKEN_PATH,
    COMPILED,
    FOR_WORKERS,
    RAY_TEMPORARY,
    TEMPORARY,
    close_usual_token,
    create_token,
)
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.processes import environment_with
from orchestrator.storage.private_folder import CACHES, RunFolder, run_folder

if TYPE_CHECKING:
    from ray._private.worker import BaseContext


OBJECT_STORE_BYTES = 256 * 1024**2
"""Patches are memory-mapped files, so only small messages pass through it."""
DASHBOARD_WAITS_S = 600
"""How long a dashboard may take to start."""
STARTUP_TIMED_OUT = "timed out during startup"
"""What Ray says of processes of its own that were too slow for it."""
RAY_FOLDER = "r"
"""Of Ray itself, below that of the run: Ray opens it to all users, who cannot get there."""
LONGEST_SOCKET = f"/{RAY_FOLDER}/session_2026-11-28_21-34-57_033431_4194304/sockets/dash_TaskEventsHead"
"""Where one byte is missing, a part of the dashboard does not start, and Ray waits for it until it gives up."""

THREADS_OF_RAY, THREADS_OF_WORKER = 380, 25
"""Least that was seen of a run's driver with its Ray, and of each process that it has ready, one for a processor."""
_TASKS = Path("/proc/self/task")


@contextmanager
def embedded_ray(asked: EmbeddedRay) -> Iterator[tuple["BaseContext", Path]]:
    """Context with a Ray that ends with it: what `ray.init` returns, and the file of its token.

    All of its ports are bound to the loopback interface, where other users of this machine reach them: these need the
    token. Its sockets, logs and temporary files lie in a folder that only this user can enter, and that is removed.
    """
    check_threads(asked.num_cpus or int(utils.get_num_cpus()))
    with suppress(ConfigError):  # this Ray does not need it, and another one may
        close_usual_token()
    prefer = os.environ.get(RAY_TEMPORARY)
    with run_folder(num_below_bytes=len(LONGEST_SOCKET), prefer=prefer) as folder:
        token = create_token(folder.path / "auth_token")
        with environment_with(_variables(folder, token=token)), _on_loopback():
            read_authentication_again()
            try:
                yield _start(asked, folder=folder), token
            finally:
                ray.shutdown()
    read_authentication_again()


def check_threads(num_cpus: int) -> None:
    """Raise ClusterError if this user may not have as many threads as a Ray has: it would hang, or end in C++."""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    # Root has no such limit; elsewhere than on Linux it counts processes.
    if limit == resource.RLIM_INFINITY or os.getuid() == 0 or not _TASKS.is_dir():
        return
    present, own = _num_threads(), len(list(_TASKS.iterdir()))
    needed = THREADS_OF_RAY + THREADS_OF_WORKER * num_cpus
    if present - own + needed > limit:
        raise ClusterError(
            f"this user may have {limit} threads (`ulimit -u`) and has {present}; expected room for about {needed} of "
            f"a run on {num_cpus} processors. Raise the limit, end other programs of this user, or run elsewhere"
        )


def _num_threads() -> int:
    """Return how many threads all processes of this user have that can be seen from here."""
    number = 0
    for process in _TASKS.parents[1].glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if process.stat().st_uid == os.getuid():
                number += len(list((process / "task").iterdir()))
    return number


def _start(asked: EmbeddedRay, *, folder: RunFolder) -> "BaseContext":
    # One that ends is noticed at once; beside other work it takes minutes to come.
    waits_s = max(ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S, DASHBOARD_WAITS_S)
    ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = waits_s
    try:
        return _started(asked, folder=folder)
    except Exception as error:
        # It gives its own processes half a minute, whatever else the machine does.
        if STARTUP_TIMED_OUT not in str(error):
            raise
        ray.shutdown()
    return _started(asked, folder=folder)


def _started(asked: EmbeddedRay, *, folder: RunFolder) -> "BaseContext":
    return ray.init(
        address="local",
        num_cpus=asked.num_cpus,
        num_gpus=asked.num_gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder.path / RAY_FOLDER),
    )


def _variables(folder: RunFolder, *, token: Path) -> dict[str, str | None]:
    """Return the environment that Ray's processes inherit; None for what they must not see."""
    return {
        **FOR_WORKERS,
        AUTH_MODE: "token",
        AUTH_TOKEN_PATH: str(token),
        AUTH_TOKEN: None,
        TEMPORARY: str(folder.temporary),
        CACHES: str(folder.caches),
        # By default others can know its name beforehand, and it holds code.
        COMPILED: os.environ.get(COMPILED, str(folder.temporary / "compiled")),
        # Warnings as errors, which somebody asks of their own programs, end Ray's.
        "PYTHONWARNINGS": None,
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        # It would ask whatever cluster this machine had last, and hold up each training while that is silent.
        "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    }


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Context in which a Ray that is started binds to the loopback interface alone.

    Ray does so where it is no cluster, by default on macOS and Windows; given 127.0.0.1 as the address of its node it
    would take that of a network interface instead.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def read_authentication_again() -> None:
    """Let the Ray of this process, which may have been imported before, see the token of the environment."""
    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")
