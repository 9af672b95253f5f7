"""What a run looks like at one moment, and how that is shown: a live table, or plain lines without a terminal."""

import math
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.console import is_live

PLAIN_INTERVAL_S = 10.0
"""Time between two plain lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCount:
    """Numbers of the stages of one kind."""

    kind: str
    total: int
    done: int
    running: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTraining:
    """The latest epoch of a training under way."""

    id: str
    epoch: int
    """Epochs finished."""
    num_epochs: int
    train_loss: float
    pseudo_dice: float
    epoch_elapsed_s: float
    loader_wait_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A run at one moment."""

    elapsed_s: float
    eta_s: float
    """Seconds still to go, estimated."""
    stages: tuple[StageCount, ...]
    """Of this call: what earlier ones have done is not counted."""
    num_trainings: int
    """All that were asked for."""
    num_trainings_done: int
    num_trainings_failed: int
    running: tuple[RunningTraining, ...]


def duration_text(seconds: float) -> str:
    """Return `7 s`, `3 min 05 s`, `2 h 10 min` or `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def to_go_text(seconds: float) -> str:
    """Return `about 7 s to go`, or that nothing can go on."""
    return "no machine to go on" if math.isinf(seconds) else f"about {duration_text(seconds)} to go"


def counted(number: int, noun: str) -> str:
    """Return `1 training` or `45 trainings`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def usd_text(amount_usd: float) -> str:
    """Return `0.07` or `412`: cents where they matter."""
    return f"{amount_usd:.2f}" if round(amount_usd, 2) < 10 else f"{amount_usd:.0f}"


def plain_line(snapshot: Snapshot) -> str:
    """Return one line that says how far the run is."""
    stages = "  ".join(f"{count.kind} {count.done}/{count.total}" for count in snapshot.stages if count.total)
    failed = f", {snapshot.num_trainings_failed} failed" if snapshot.num_trainings_failed else ""
    return (
        f"[{duration_text(snapshot.elapsed_s)}] "
        f"{snapshot.num_trainings_done} of {snapshot.num_trainings} trainings done{failed}, "
        f"{to_go_text(snapshot.eta_s)} | in this call: {stages}"
    )


def _render(snapshot: Snapshot) -> Group:
    """Return the live view: one line of summary, the stages, the trainings under way."""
    headline = Text.assemble(
        (f"{snapshot.num_trainings_done} of {snapshot.num_trainings} trainings done", "bold"),
        (f", {snapshot.num_trainings_failed} failed" if snapshot.num_trainings_failed else "", "bold red"),
        f"   elapsed {duration_text(snapshot.elapsed_s)}   {to_go_text(snapshot.eta_s)}",
    )
    stages = Table("in this call", "done", "running", "failed", "of", box=None, padding=(0, 2), header_style="dim")
    for count in snapshot.stages:
        style = "green" if count.total and count.done == count.total else ("bold" if count.running else "")
        failed = Text(str(count.failed), style="red" if count.failed else "")
        stages.add_row(count.kind, str(count.done), str(count.running), failed, str(count.total), style=style)
    trainings = Table("training", "epoch", "loss", "Dice", "s/epoch", box=None, padding=(0, 2), header_style="dim")
    for training in snapshot.running:
        trainings.add_row(
            training.id,
            f"{training.epoch}/{training.num_epochs}",
            f"{training.train_loss:.3f}",
            f"{training.pseudo_dice:.3f}",
            f"{training.epoch_elapsed_s:.1f}",
        )
    return Group(headline, stages, trainings)


class LiveView:
    """Shows snapshots on a console: redrawn in place on a terminal, as a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if is_live(console) else None
        self._last_plain_s = float("-inf")

    def __enter__(self) -> "LiveView":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show how far the run is."""
        if self._live is not None:
            self._live.update(_render(snapshot))
        elif snapshot.elapsed_s - self._last_plain_s >= PLAIN_INTERVAL_S:
            self._last_plain_s = snapshot.elapsed_s
            self._console.print(plain_line(snapshot), markup=False, highlight=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Print a line that stays, above the live view."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
