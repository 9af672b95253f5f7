"""Being asked to stop: one flag for a training, raised by whoever knows first that its machine will be taken away."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from orchestrator.errors import StorageError

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM comes from schedulers and people, SIGUSR1 from Slurm where a job asks for a warning before its time limit."""

_under_way: list["StopRequest"] = []
"""Of the trainings of this process."""
_before: dict[int, Any] = {}
"""Handlers that were there before ours, by signal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """Something that is looked at now and then while a training runs."""

    look: Callable[[], str]
    """Returns why the training must stop, or nothing."""
    every_s: float
    """Time between two looks."""


class StopRequest:
    """Whether a training was asked to stop, while the context lasts.

    Signals raise the flag at once; watches are looked at in a thread, so that no iteration waits for a network.
    """

    def __init__(self, watches: Sequence[Watch] = ()) -> None:
        self._watches = tuple(watches)
        self._reason = ""
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(watch,), name="stop-request", daemon=True) for watch in watches
        ]
        self._owns_handlers = False

    def __enter__(self) -> "StopRequest":
        """Begin to listen; signals are heard if this is the main thread or `listen_to_signals` was called in it."""
        _under_way.append(self)
        if not _before and threading.current_thread() is threading.main_thread():
            listen_to_signals()
            self._owns_handlers = True
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to listen."""
        self._ended.set()
        _under_way.remove(self)
        if self._owns_handlers:
            _restore_handlers()

    def ask(self, reason: str) -> None:
        """Ask the training to stop; the first reason is kept."""
        self._reason = self._reason or reason

    def reason(self) -> str:
        """Why the training must stop; empty as long as nobody has asked."""
        return self._reason

    def _watch(self, watch: Watch) -> None:
        while not self._reason:
            try:
                reason = watch.look()
            except (StorageError, OSError) as error:
                # What cannot be asked now may be asked later; a training must not end for it.
                logger.info("looking for requests to stop: %s", error)
                reason = ""
            if reason:
                self.ask(reason)
            if self._ended.wait(watch.every_s):
                return


def listen_to_signals() -> None:
    """Let signals raise the flag of the trainings of this process; to be called in its main thread.

    While no training is under way, and for a second signal, the handlers that were there before do what they did.
    """
    for number in SIGNALS:
        handler = signal.signal(number, _on_signal)
        if handler is not _on_signal:
            _before[number] = handler


def _on_signal(number: int, frame: FrameType | None) -> None:
    waiting = [request for request in _under_way if not request.reason()]
    for request in waiting:
        request.ask(f"its process received {signal.Signals(number).name}")
    if waiting:
        return
    before = _before.get(number, signal.SIG_DFL)
    if callable(before):
        before(number, frame)
    elif before == signal.SIG_DFL and number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _restore_handlers() -> None:
    for number, handler in _before.items():
        signal.signal(number, handler)
    _before.clear()


def _forget_trainings() -> None:
    _under_way.clear()
    _restore_handlers()


# A process that is forked from that of a training, as those that load data, has none to stop: a signal ends it.
os.register_at_fork(after_in_child=_forget_trainings)
