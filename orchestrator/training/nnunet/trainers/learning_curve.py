"""Scores of whole validation cases while a training runs, for a share of its time that is said beforehand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.results.aggregate import mean_of
from orchestrator.results.curves import CurveRow
from orchestrator.storage.json_values import JsonObject
from orchestrator.training.nnunet.trainers.structures import Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveSettings:
    """How often, and at what cost."""

    every: int
    """Epochs between two looks."""
    share: float
    """Most of the time of the training, looks left out, that all looks together may have taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """What was found after an epoch."""

    rows: tuple[CurveRow, ...]
    elapsed_s: float

    @property
    def mean_dsc(self) -> float:
        """Over cases and structures where it is a number."""
        return mean_of(row.dsc for row in self.rows)

    @property
    def mean_nsd(self) -> float:
        """Over cases and structures where it is a number."""
        return mean_of(row.nsd for row in self.rows)


class LearningCurve:
    """Decides when to look and at which cases.

    The first look takes as many cases as the time allows that the training has taken until then, and all later ones
    take the same, so that they can be compared. One that would take more than the share allows is left out.
    """

    def __init__(
        self,
        settings: CurveSettings,
        *,
        cases: Sequence[str],
        structures: Sequence[str],
        score: Callable[[str], Scores],
        clock: Callable[[], float],
    ) -> None:
        """Prepare.

        Parameters
        ----------
        settings
            How often, and at what cost.
        cases
            Validation cases, those to be looked at first first.
        structures
            Names of what is scored.
        score
            Predicts a case and returns the scores of its structures.
        clock
            Gives monotonic seconds.
        """
        self._settings = settings
        self._cases = tuple(cases)
        self._structures = tuple(structures)
        self._score = score
        self._clock = clock
        self._chosen: tuple[str, ...] = ()
        self._spent_s = 0.0
        self._cost_s = 0.0
        """Of the latest look."""
        self._best_nsd = -math.inf

    @property
    def state(self) -> JsonObject:
        """What a checkpoint keeps."""
        return {
            "chosen": list(self._chosen),
            "spent_s": self._spent_s,
            "cost_s": self._cost_s,
            "best_nsd": self._best_nsd,
        }

    @state.setter
    def state(self, state: JsonObject) -> None:
        self._chosen = tuple(case for case in state["chosen"] if case in self._cases)
        self._spent_s, self._cost_s = state["spent_s"], state["cost_s"]
        self._best_nsd = state["best_nsd"]

    def is_due(self, num_epochs: int) -> bool:
        """Whether there is to be a look after so many epochs."""
        return bool(self._cases) and num_epochs % self._settings.every == 0

    def look(self, num_epochs: int, *, elapsed_s: float, expected_case_s: float) -> CurvePoint | None:
        """Look at the cases; None if that would take more than the share allows.

        Parameters
        ----------
        num_epochs
            Epochs that are done.
        elapsed_s
            That these have taken, looks left out.
        expected_case_s
            That a case is expected to take, as long as none was looked at.
        """
        left_s = self._settings.share * elapsed_s - self._spent_s
        if (self._cost_s if self._chosen else expected_case_s) > left_s:
            return None
        started_s = self._clock()
        rows: list[CurveRow] = []
        for case in self._chosen or self._cases:
            scores = self._score(case)
            rows += [
                CurveRow(epoch=num_epochs, case=case, structure=structure, dsc=dsc, nsd=nsd)
                for structure, (dsc, nsd) in zip(self._structures, scores, strict=True)
            ]
            taken_s = self._clock() - started_s
            num_cases = len(rows) // len(self._structures)
            if not self._chosen and taken_s * (num_cases + 1) / num_cases > left_s:
                break
        self._chosen = tuple(dict.fromkeys(row.case for row in rows))
        self._cost_s = self._clock() - started_s
        self._spent_s += self._cost_s
        return CurvePoint(rows=tuple(rows), elapsed_s=self._cost_s)

    def is_best(self, look: CurvePoint) -> bool:
        """Whether no look before had a higher mean NSD; to be asked once a look."""
        if math.isnan(look.mean_nsd) or look.mean_nsd <= self._best_nsd:
            return False
        self._best_nsd = look.mean_nsd
        return True
