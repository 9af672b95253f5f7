"""What a study may ask for besides the scores that every study has."""

from orchestrator.benchmark.definition import STUDY_METRICS, FurtherMetric
from orchestrator.benchmark.study_file import StudyFile
from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError


def further_metrics(content: StudyFile, *, where: str) -> tuple[FurtherMetric, ...]:
    """Return what a study file asks for; raises ConfigError for what there is not, or is already."""
    names = content.metrics
    if not names:
        return ()
    # Takes half a second, which only those wait for who ask for a metric.
    from kernels import FIELDS, TITLES

    expect_known(names, [name for name in FIELDS if name not in STUDY_METRICS], where=where, what="metric")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ConfigError(f"{where}: {twice[0]} twice; expected each once")
    facets = {facet.casefold() for entry in content.trainings.values() for facet in entry.facets}
    taken = [name for name in names if FIELDS[name] in facets]
    if taken:
        raise ConfigError(
            f"{where}: the column of {taken[0]} is named like a facet; expected another name of the facet"
        )
    return tuple(FurtherMetric(name=name, field=FIELDS[name], title=TITLES[name]) for name in names)
