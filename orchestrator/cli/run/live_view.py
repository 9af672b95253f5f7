"""How a run is shown while it goes on: a live table, or plain lines without a terminal."""

from types import TracebackType
from typing import TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import is_live, say
from orchestrator.progress import ProgressLines, Snapshot, duration_text, to_go_text


class LiveView:
    """Shows snapshots on a console: redrawn in place on a terminal, as a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if is_live(console) else None
        self._lines = ProgressLines(cast("TextIO", console.file))

    def __enter__(self) -> "LiveView":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show how far the run is."""
        if self._live is None:
            self._lines.show(snapshot)
            return
        self._live.start()
        self._live.update(_render(snapshot))

    def note(self, line: str) -> None:
        """Print a line that stays, above the live view."""
        say(line, console=self._console)


def _render(snapshot: Snapshot) -> Group:
    """Return the live view: one line of summary, the stages, the trainings under way."""
    headline = Text.assemble(
        (f"{snapshot.num_trainings_done} of {snapshot.num_trainings} trainings done", "bold"),
        (f", {snapshot.num_trainings_failed} failed" if snapshot.num_trainings_failed else "", "bold red"),
        f"   elapsed {duration_text(snapshot.elapsed_s)}   {to_go_text(snapshot)}",
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
