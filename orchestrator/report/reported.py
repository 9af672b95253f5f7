"""What a report is about."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.leaks import AlikeCases, PatientLeak, alike_leaks
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.tables import TableLayout
from orchestrator.report.looks.decisions import Decisions
from orchestrator.usage import Cost


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """The scores of a run, and what they are scores of."""

    study: Study
    trainings: tuple[Training, ...]
    """Whatever any call of the run was asked for, or has scores."""
    table: pa.Table
    """All committed rows."""
    layout: TableLayout
    """Tables, titles, published values and questions of the study."""
    warnings: tuple[str, ...] = ()
    """What is hardly right about the data."""
    alike: tuple[AlikeCases, ...] = ()
    """Cases whose images show the same, as their voxels tell."""
    cost: Cost | None = None
    """Of what the run took of its machines; None where nothing tells their prices."""
    decisions: Decisions | None = None
    """Of its looks, if it ends once its questions are answered."""

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of the trainings without scores that no answer needs any more."""
        if self.decisions is None:
            return frozenset()
        return frozenset(self.decisions.left_out).difference(self.table["training_id"].unique().to_pylist())

    @property
    def of_trainings(self) -> pa.Table:
        """Return the rows of these trainings."""
        ids = pa.array([training.id for training in self.trainings], pa.string())
        return self.table.filter(pc.is_in(self.table["training_id"], ids))

    @property
    def leaks(self) -> tuple[PatientLeak, ...]:
        """Return which trainings test on what they are trained on: what the study says, then what voxels tell."""
        declared = self.study.patient_leaks(self.trainings)
        return (*declared, *alike_leaks(self.alike, self.trainings, declared=declared))
