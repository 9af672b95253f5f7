"""Names of the metrics that a run publishes; Ray puts `ray_` in front of each."""

METRICS = (
    "orchestrator_trainings",
    "orchestrator_epoch",
    "orchestrator_train_loss",
    "orchestrator_pseudo_dice",
    "orchestrator_epoch_elapsed_s",
    "orchestrator_loader_wait_s",
    "orchestrator_eta_s",
    "orchestrator_stage_seconds",
)
"""Tags: `trainings` has `state`; `epoch` to `loader_wait_s` have `training`; `stage_seconds` has `stage`."""
