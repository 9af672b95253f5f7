"""What a study may ask for besides the scores that every study has."""

from orchestrator.benchmark.checks.names import RESERVED_FACETS
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
    from kernels import FIELDS, FURTHER, TITLES

    expect_known(names, [name for name in FIELDS if name not in STUDY_METRICS], where=where, what="metric")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ConfigError(f"{where}: {twice[0]} twice; expected each once")
    of_entries = [entry.facets for entry in content.trainings.values()]
    of_entries += [entry.facets for entry in content.ensembles.values()]
    facets = {facet.casefold() for own in of_entries for facet in own}
    taken = [name for name in names if FIELDS[name].casefold() in facets]
    if taken:
        raise ConfigError(
            f"{where}: the column of {taken[0]} is named like a facet; expected another name of the facet"
        )
    columns = set(RESERVED_FACETS)
    for name in names:
        # Those that come along have columns of their own among these.
        if name in FURTHER and FIELDS[name].casefold() in columns:
            raise ConfigError(
                f"{where}: {name} has the field {FIELDS[name]!r}, which is another column of the results; expected "
                "another `field` of its METRIC"
            )
        columns.add(FIELDS[name].casefold())
    return tuple(FurtherMetric(name=name, field=FIELDS[name], title=TITLES[name]) for name in names)
