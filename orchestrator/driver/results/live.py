"""The report of a run that goes on: made from its output, kept in memory, nothing is written."""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Training
from orchestrator.driver.claim import trainings_asked_for
from orchestrator.driver.lease import latest_driver
from orchestrator.driver.request import RunRequest, trainings_of
from orchestrator.driver.results.shown import failures_of, shown_of
from orchestrator.driver.status import RunStatus, TrainingUnderWay, read_status
from orchestrator.errors import OrchestratorError
from orchestrator.events import read_events
from orchestrator.progress import duration_text
from orchestrator.report.live.state import Cell, CellState, Line, LiveState, Machine
from orchestrator.results.store import ResultsStore
from orchestrator.storage.interface import Storage
from orchestrator.workflow.keys import StageKey, StageKind

if TYPE_CHECKING:
    from orchestrator.report.page import Page

logger = logging.getLogger(__name__)

_KEEP_S = 2.0
"""For which a page is not made anew, however often it is asked for."""


def live_state(
    status: RunStatus,
    *,
    trainings: tuple[Training, ...],
    driver: str,
    now: datetime,
    remaining_s: float | None = None,
) -> LiveState:
    """Return what a page shows of how far a run is, and how long its driver expects it to go on, if that is known."""
    asked_for = [training for training in trainings if training.id in set(status.trainings)]
    under_way = {one.id: one for one in status.under_way}
    keys = {stage: StageKey.parse(stage) for stage in status.failed}
    failed = {key.training: status.failed[stage] for stage, key in keys.items() if key is not None and key.training}
    by_line: dict[str, dict[int, Cell]] = {}
    for training in asked_for:
        cell = _cell(training.id, status=status, under_way=under_way, failed=failed)
        line = training.group if training.seed is None else f"{training.group}, seed {training.seed}"
        by_line.setdefault(line, {})[training.fold] = cell
    machines: dict[str, list[str]] = {}
    for one in status.under_way:
        machines.setdefault(one.host or "not known yet", []).append(one.id)
    return LiveState(
        lines=tuple(
            Line(group=group, cells=tuple(cells.get(fold) for fold in range(max(cells) + 1)))
            for group, cells in by_line.items()
        ),
        machines=tuple(Machine(name=name, trainings=tuple(own)) for name, own in sorted(machines.items())),
        remaining="" if remaining_s is None else f"about {duration_text(remaining_s)}",
        driver=driver,
        time=f"{now:%Y-%m-%d %H:%M:%S} UTC",
    )


def _cell(
    training_id: str,
    *,
    status: RunStatus,
    under_way: dict[str, TrainingUnderWay],
    failed: dict[str, str],
) -> Cell:
    if training_id in status.done:
        return Cell(state=CellState.DONE, text="done", title=training_id)
    if training_id in failed:
        return Cell(state=CellState.FAILED, text="failed", title=f"{training_id}: {failed[training_id]}")
    if training_id in status.left_out:
        return Cell(state=CellState.LEFT_OUT, text="not needed", title=training_id)
    one = under_way.get(training_id)
    if one is None:
        return Cell(state=CellState.WAITING, text="waiting", title=training_id)
    if one.stage != StageKind.TRAIN:
        return Cell(state=CellState.UNDER_WAY, text=one.stage, title=training_id)
    left = one.remaining_s()
    remaining = "" if left is None else f"; {duration_text(left)} of training left"
    dice = "" if math.isnan(one.pseudo_dice) else f"; Dice of patches {one.pseudo_dice:.2f}, a monitor and no result"
    text = f"epoch {one.epoch} of {one.num_epochs}" if one.num_epochs else "starting"
    return Cell(state=CellState.UNDER_WAY, text=text, title=f"{training_id}{remaining}{dice}")


class LiveReport:
    """Makes the page; the part that takes long only when there are new scores."""

    def __init__(self, request: RunRequest, storage: Storage, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._request, self._storage, self._clock = request, storage, clock
        self._lock = threading.Lock()
        self._made_s = -math.inf
        self._html = ""
        self._page: Page | None = None
        self._scored: tuple[frozenset[str], tuple[str, ...]] | None = None

    def page(self) -> str:
        """Return the page as it is now; raises what the report of the run does, the first time."""
        with self._lock:
            if self._clock() - self._made_s >= _KEEP_S:
                try:
                    self._html = self._make()
                except OrchestratorError as error:
                    # A file may just be written. The page says when it was made.
                    if not self._html:
                        raise
                    logger.warning("the page stays as it was: %s", error)
                self._made_s = self._clock()
            return self._html

    def _make(self) -> str:
        from orchestrator.report.texts.rendering import to_html
        from orchestrator.report.write import page_of

        storage = self._storage
        status = read_status(storage)
        everything = trainings_of(self._request)
        driver, remaining_s = _driver(storage)
        state = live_state(status, trainings=everything, driver=driver, now=datetime.now(UTC), remaining_s=remaining_s)
        scored = (status.done, tuple(status.failed))
        if self._page is None or scored != self._scored:
            shown = shown_of(
                self._request, storage, table=ResultsStore(storage).read(), asked_for=trainings_asked_for(storage)
            )
            failed = failures_of(storage, status)
            self._page = page_of(storage, reported=shown, failures=failed, events=read_events(storage)).page
            self._scored = scored
        return to_html(replace(self._page, live=state))


def _driver(storage: Storage) -> tuple[str, float | None]:
    """Return what is known of the latest driver, and how long the run goes on as it expects."""
    driver = latest_driver(storage)
    if driver is None:
        return "No driver has been at work yet.", None
    if driver.is_released:
        return "The latest driver has ended.", None
    if driver.is_at_work(storage) is False:
        return "The latest driver is dead; the command that started the run goes on from what is done.", None
    return f"A driver was last seen at work on {driver.host}.", driver.remaining_s
