"""The committed scores of a training, compared with what its study asks for by now."""

from collections.abc import Iterable

from orchestrator.benchmark.definition import FurtherMetric, Training
from orchestrator.errors import IntegrityError
from orchestrator.results.store import ResultsStore
from orchestrator.storage.interface import Storage


def is_scored_otherwise(storage: Storage, training: Training, *, metrics: Iterable[FurtherMetric]) -> bool:
    """Whether the committed scores of a training lack a metric of its study, or have other facets than it says.

    Whatever else scores follow from is the same as long as the run is. A file that is damaged is not otherwise: who
    reads its rows says what is wrong.
    """
    fields = {metric.field for metric in metrics}
    # What facets trainings have is part of what they are; ensembles may change.
    if not (fields or training.members):
        return False
    try:
        row = ResultsStore(storage).first_row(training.id)
    except IntegrityError:
        return False
    return dict(row.facets) != dict(training.facets) or not fields.issubset(row.further)
