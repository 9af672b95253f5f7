"""What trainings under way tell of their epochs: from their records to the schedule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from orchestrator.scheduling.scheduler import Schedule
from orchestrator.stages.records.latest_epoch import LatestEpoch, read_latest_epoch
from orchestrator.storage.interface import Storage
from orchestrator.training.reports import EpochReport
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey, StageKind

LOOKING_S = 0.2
"""Time after which no further training is looked at: on S3 a hundred records take seconds to read, in which nothing
would be started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a training has told last."""

    stage: Stage
    latest: LatestEpoch
    untold: tuple[LatestEpoch, ...]
    """What of it nobody was told of yet, in its order: several epochs where they are shorter than the looks apart."""
    node: str | None
    """Where it runs; None where the record may be of an attempt before, on another machine."""

    def tell(self, schedule: Schedule, *, now_s: float) -> None:
        """Let a schedule learn from it."""
        report = self.latest.report
        schedule.progress(
            self.stage.key,
            fraction=(report.epoch + 1) / report.num_epochs,
            whole_s=report.elapsed_s * report.num_epochs if report.is_typical else None,
            now_s=now_s,
            node=self.node,
        )


class ProgressFeed:
    """Reads the records of trainings under way, those first that were not looked at for longest."""

    def __init__(self, storage: Storage, *, clock: Callable[[], float]) -> None:
        """Begin with none under way; `clock` gives monotonic seconds."""
        self._storage = storage
        self._clock = clock
        self._under_way: dict[StageKey, Stage] = {}
        self._looked_s: dict[StageKey, float] = {}
        self._seen: dict[StageKey, tuple[int, float] | None] = {}
        self._told: set[StageKey] = set()

    def started(self, stage: Stage) -> None:
        """Take note that a stage is under way; what its record says by now, an attempt before has told."""
        if stage.kind is not StageKind.TRAIN:
            return
        self._under_way[stage.key] = stage
        if stage.key not in self._seen:
            before = read_latest_epoch(self._storage, stage.key.training)
            self._seen[stage.key] = _mark(before.report) if before else None

    def ended(self, stage: Stage) -> Progress | None:
        """Take note that a stage is not under way any more; returns what it has told last.

        Its last epoch ends together with it, so that no look before can have seen that.
        """
        self._looked_s.pop(stage.key, None)
        return None if self._under_way.pop(stage.key, None) is None else self._look_at(stage)

    def read(self) -> Iterator[Progress]:
        """Yield what trainings have told last, as far as there is time to look."""
        until_s = self._clock() + LOOKING_S
        for key in sorted(self._under_way, key=lambda key: (self._looked_s.get(key, float("-inf")), key)):
            self._looked_s[key] = self._clock()
            if (progress := self._look_at(self._under_way[key])) is not None:
                yield progress
            if self._clock() > until_s:
                return

    def _look_at(self, stage: Stage) -> Progress | None:
        """Return what the record of a training says; None if there is none."""
        latest = read_latest_epoch(self._storage, stage.key.training)
        if latest is None:
            return None
        reports = [*latest.earlier, latest.report]
        marks = list(map(_mark, reports))
        seen = self._seen.get(stage.key)
        untold = reports[marks.index(seen) + 1 :] if seen in marks else reports
        is_first = stage.key not in self._told
        if is_first and not untold:
            # The driver of the attempt before may have died before it could tell that.
            untold = reports[-1:]
        self._seen[stage.key] = marks[-1]
        self._told.add(stage.key)
        return Progress(
            stage=stage,
            latest=latest,
            untold=tuple(replace(latest, report=report, earlier=()) for report in untold),
            # The first record that a driver finds may be of an attempt before, on another machine.
            node=None if is_first else latest.node,
        )


def _mark(report: EpochReport) -> tuple[int, float]:
    """Return by what an epoch is known: one that an attempt has repeated took another time."""
    return report.epoch, report.elapsed_s
