"""What trainings under way tell of their epochs: from their records to the schedule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.scheduling.scheduler import Schedule
from orchestrator.stages.records.latest_epoch import LatestEpoch, read_latest_epoch
from orchestrator.storage.interface import Storage
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
    is_new: bool
    """Whether it tells that for the first time."""
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
        self._seen_epochs: dict[StageKey, int] = {}

    def started(self, stage: Stage) -> None:
        """Take note that a stage is under way."""
        if stage.kind is StageKind.TRAIN:
            self._under_way[stage.key] = stage

    def ended(self, stage: Stage) -> None:
        """Take note that a stage is not under way any more."""
        self._under_way.pop(stage.key, None)
        self._looked_s.pop(stage.key, None)

    def read(self) -> Iterator[Progress]:
        """Yield what trainings have told last, as far as there is time to look."""
        until_s = self._clock() + LOOKING_S
        for key in sorted(self._under_way, key=lambda key: (self._looked_s.get(key, float("-inf")), key)):
            self._looked_s[key] = self._clock()
            latest = read_latest_epoch(self._storage, key.training)
            if latest is not None:
                yield self._progress(self._under_way[key], latest)
            if self._clock() > until_s:
                return

    def _progress(self, stage: Stage, latest: LatestEpoch) -> Progress:
        seen = self._seen_epochs.get(stage.key)
        self._seen_epochs[stage.key] = latest.report.epoch
        return Progress(
            stage=stage,
            latest=latest,
            is_new=seen != latest.report.epoch,
            # The first record that a driver finds may be of an attempt before, on another machine.
            node=latest.node if seen is not None else None,
        )
