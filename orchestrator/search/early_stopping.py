"""Ends trials that others beat, by Ray Tune's rule of asynchronous successive halving (Li et al. 2020).

Nobody decides for all: a trial that reaches a milestone writes down how good it is and looks at what those have written
who were there before. The files are in the order in which trials came, and what was decided is what they say; a trial
that comes to a milestone again, after it was interrupted, finds its own decision there.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.storage.json_values import JsonObject

_METRIC, _TIME = "value", "epoch"


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping:
    """Ray Tune's ASHA: at each milestone a trial goes on if it is among the best 1 / reduction of those that came."""

    first_epochs: int
    """Epochs until the first milestone."""
    reduction: int
    """How many times as many epochs lead to the next milestone."""
    num_epochs: int
    """Of a whole training; no milestone."""

    @property
    def milestones(self) -> tuple[int, ...]:
        """Epochs after which a trial may end."""
        found, epochs = [], self.first_epochs
        while epochs < self.num_epochs:
            found.append(epochs)
            epochs *= self.reduction
        return tuple(found)

    def ends(self, storage: Storage, trial: str, *, epoch: int, value: float) -> bool:
        """Whether a trial ends after so many epochs; what is decided at a milestone is written down.

        Parameters
        ----------
        storage
            Output location of the sweep.
        trial
            Id of the training.
        epoch
            Epochs that are over.
        value
            How good the trial is; larger is better.
        """

        def rule(before: Sequence[float]) -> bool:
            return is_beaten(before, value, reduction=self.reduction)

        return epoch in self.milestones and arrived(storage, trial, epoch=epoch, value=value, rule=rule)

    def value_of(self, dice: Sequence[float]) -> float:
        """Return what trials are compared by: the mean over the last third of epochs, as one is of few patches."""
        last = dice[-max(1, len(dice) // 3) :]
        return math.fsum(last) / len(last)


def arrivals(storage: Storage, *, epoch: int) -> list[JsonObject]:
    """Return what trials were like that have come to a milestone, in their order: `trial`, `value` and `ends`."""
    keys = run_paths.own_keys(storage, run_paths.MILESTONES, below=run_paths.milestone(epoch))
    return [read_json(storage, key, {"trial": str, _METRIC: (int, float), "ends": bool}) for key in keys]


def arrived(storage: Storage, trial: str, *, epoch: int, value: float, rule: Callable[[Sequence[float]], bool]) -> bool:
    """Return whether a trial ends at a milestone, which is decided once, by the values of those that came before."""
    while True:
        records = arrivals(storage, epoch=epoch)
        for record in records:
            if record["trial"] == trial:
                return bool(record["ends"])
        ends = rule([float(record[_METRIC]) for record in records])
        # Another trial may have come in the meantime: then this one looks again.
        own = json.dumps({"trial": trial, _METRIC: value, "ends": ends}, indent=1)
        if storage.create_exclusive(run_paths.arrival(epoch, number=len(records)), own.encode()):
            return ends


def is_beaten(before: Sequence[float], value: float, *, reduction: int) -> bool:
    """Whether Ray Tune stops a trial that comes to a milestone after others, of which the best 1 / reduction go on."""
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        time_attr=_TIME, metric=_METRIC, mode="max", max_t=reduction, grace_period=1, reduction_factor=reduction
    )
    action = ""
    for number, one in enumerate([*before, value]):
        # All that the rule asks a trial for.
        trial = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        action = scheduler.on_trial_result(None, trial, {_TIME: 1, _METRIC: one})
    return bool(action == ASHAScheduler.STOP)
