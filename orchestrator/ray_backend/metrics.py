"""The state of a run as metrics of the Ray cluster, for Prometheus and Grafana."""

from collections.abc import Mapping

from ray.util.metrics import Gauge

from orchestrator.progress import Snapshot
from orchestrator.workflow.keys import StageKind

_OF_TRAINING = {
    "epoch": ("orchestrator_epoch", "Epochs finished"),
    "train_loss": ("orchestrator_train_loss", "Training loss of the last epoch"),
    "pseudo_dice": ("orchestrator_pseudo_dice", "Patch Dice of the last epoch"),
    "epoch_elapsed_s": ("orchestrator_epoch_elapsed_s", "Seconds of the last epoch"),
    "loader_wait_s": ("orchestrator_loader_wait_s", "Seconds of the last epoch spent waiting for patches"),
}
"""What is shown of each training under way: its name as a metric, and what it is."""


class RayMetrics:
    """Publishes snapshots as gauges; Ray adds the prefix `ray_` to their names."""

    def __init__(self) -> None:
        self._trainings = Gauge("orchestrator_trainings", "Trainings by state", tag_keys=("state",))
        self._eta_s = Gauge("orchestrator_eta_s", "Seconds that the run still needs, estimated")
        self._stage_seconds = Gauge(
            "orchestrator_stage_seconds", "Seconds spent in finished stages of each kind", tag_keys=("stage",)
        )
        self._of_training = {
            field: Gauge(name, text, tag_keys=("training",)) for field, (name, text) in _OF_TRAINING.items()
        }

    def publish(self, snapshot: Snapshot, stage_seconds: Mapping[StageKind, float]) -> None:
        """Set every gauge to the state of this moment."""
        states = {
            "done": snapshot.num_trainings_done,
            "failed": snapshot.num_trainings_failed,
            "running": sum(count.running for count in snapshot.stages if count.kind == StageKind.TRAIN),
        }
        states["waiting"] = max(0, snapshot.num_trainings - sum(states.values()))
        for state, number in states.items():
            self._trainings.set(number, tags={"state": state})
        self._eta_s.set(snapshot.eta_s)
        for kind, seconds in stage_seconds.items():
            self._stage_seconds.set(seconds, tags={"stage": kind.value})
        for training in snapshot.running:
            for field, gauge in self._of_training.items():
                gauge.set(getattr(training, field), tags={"training": training.id})
