"""How a run comes to its Ray, started for it or there already: part of the one door to Ray."""

import logging
import os
import signal
import socket
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray._private import services

from orchestrator.cluster.config import ClusterConfig, EmbeddedRay, RunName, RunningRay
from orchestrator.cluster.environment import close_usual_token
from orchestrator.errors import ClusterError, OrchestratorError
from orchestrator.ray_backend.embedded import STARTUP_TIMED_OUT, embedded_ray
from orchestrator.training.stop_request import SIGNALS

if TYPE_CHECKING:
    from ray._private.worker import BaseContext


LONGEST_TOLD = 500
"""Characters of an error of Ray, which can hold whole logs; where it comes from keeps the rest."""
HEAD_ANSWERS_WITHIN_S = 20.0
"""Longest wait for the head of a cluster that is to be running: it may have been started a moment ago."""

# The Train page of the dashboard lists trainings of several workers.
_TRAIN_SETTINGS = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1", "RAY_TRAIN_V2_ENABLED": "1"}
POLL_S = 0.5
_is_free = threading.Lock()
_ENDING = (*SIGNALS, signal.SIGHUP)
"""Signals that end a driver."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A cluster that can be used."""

    dashboard: str
    """Address of its dashboard, and where the token for it is if the run has made one; empty if there is none."""
    ray: EmbeddedRay | RunningRay
    """What it is a connection to."""


@contextmanager
def connected(config: ClusterConfig, *, run: RunName | None) -> Iterator[Connection]:
    """Connect to the cluster, or start an embedded one, for the length of the context.

    Parameters
    ----------
    config
        Where.
    run
        For which it may start machines; None for work on machines that are there.

    Raises
    ------
    ClusterError
        If the cluster cannot be reached, or this process uses a Ray already.
    """
    for name, value in _TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    with ExitStack() as stack:
        stack.enter_context(_only_ray_of_process())
        stack.enter_context(_handlers_kept())
        access = stack.enter_context(config.reach(run))
        try:
            context, token = stack.enter_context(
                embedded_ray(access) if isinstance(access, EmbeddedRay) else _running(access, where=str(config.path))
            )
        except OrchestratorError:
            raise
        except Exception as error:  # Ray's own are of any class
            told = textwrap.shorten(str(error), LONGEST_TOLD)
            raise ClusterError(f"Ray at {_place(access)}: {told}. {_advice(access, config, told=told)}") from error
        _end_as_after_ctrl_c()
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else ""
        yield Connection(
            dashboard=f"{dashboard}, which asks for the token in {token}" if dashboard and token else dashboard,
            ray=access,
        )


@contextmanager
def _only_ray_of_process() -> Iterator[None]:
    """Context for the one connection that a process can have: another one would end with ours, or ours with it."""
    if not _is_free.acquire(blocking=False):
        raise ClusterError(
            "another run of this process uses Ray; expected one at a time. Wait for it, or start each by a command of "
            "its own"
        )
    try:
        if ray.is_initialized():
            raise ClusterError(
                "this process is connected to a Ray already; expected none, since it can have only one. Call "
                "ray.shutdown() first, or use the command in a process beside it"
            )
        yield
    finally:
        _is_free.release()


@contextmanager
def _running(access: RunningRay, *, where: str) -> Iterator[tuple["BaseContext", None]]:
    """Context with a connection to a cluster that is there."""
    _check_head(access, where=where)
    close_usual_token()
    try:
        yield ray.init(address=access.address, log_to_driver=False, logging_level=logging.ERROR), None
    finally:
        ray.shutdown()


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Context that leaves the handlers of signals as they were before Ray set its own, and we ours."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _ENDING} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that is not of Python
                signal.signal(number, handler)


def _end_as_after_ctrl_c() -> None:
    """Let signals end the driver as Ctrl-C does: Ray's own handler would end the process with a stack trace."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)


def _place(access: EmbeddedRay | RunningRay) -> str:
    return access.address if isinstance(access, RunningRay) else "this machine"


def _advice(access: EmbeddedRay | RunningRay, config: ClusterConfig, *, told: str) -> str:
    """Return what mostly helps where Ray does not start or cannot be reached."""
    if isinstance(access, RunningRay):
        return f"Correct {config.path}, or start the cluster"
    if STARTUP_TIMED_OUT in told:
        return "Its processes had half a minute twice, so the machine may be overloaded: try again when it does less"
    return f"Ray keeps its sockets and logs in a folder below {tempfile.gettempdir()}: free space there, or set TMPDIR"


def _check_head(access: RunningRay, *, where: str) -> None:
    """Raise ClusterError if nothing answers where a cluster shall run: Ray itself would try on for minutes."""
    address = services.canonicalize_bootstrap_address(access.address)
    if address is None:
        return
    until_s = time.monotonic() + HEAD_ANSWERS_WITHIN_S
    while (refusal := _refusal(address)) is not None:
        if time.monotonic() > until_s:
            raise ClusterError(
                f"Ray at {address} ({where}): nothing answers ({refusal}); expected the head of a running "
                "cluster. Start it with ray start --head, or correct the address"
            )
        time.sleep(POLL_S)


def _refusal(address: str) -> OSError | None:
    """Return why nothing answers at HOST:PORT; None if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_ANSWERS_WITHIN_S).close()
    except OSError as error:
        return error
    return None
