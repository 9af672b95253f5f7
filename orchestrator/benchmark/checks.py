"""Invariants of the published splits; a definition that breaks one is not this benchmark."""

from collections import Counter

from orchestrator.benchmark.matrix import Benchmark
from orchestrator.errors import ConfigError

NUM_PE_VALIDATION_CASES_TRAINED_ON = 14
"""Of the 15 validation cases of NSCLC pleural effusion, those that are training cases of NSCLC lung."""


def check_benchmark(benchmark: Benchmark, *, where: str) -> None:
    """Raise ConfigError, naming the file `where`, if an invariant of the published splits does not hold."""
    _check_folds(benchmark, where=where)
    for name, split in benchmark.source_splits.items():
        if both := sorted(set(split.train) & set(split.val)):
            raise ConfigError(f"{where}: {name}: {', '.join(both)} in train and in val; expected disjoint lists")
    splits = benchmark.source_splits
    if splits["structseg-lung"] != splits["structseg-gtv"]:
        raise ConfigError(f"{where}: structseg-lung and structseg-gtv differ; expected one split for both")
    lung, effusion = splits["nsclc-lung"], splits["nsclc-pe"]
    if foreign := sorted({*effusion.train, *effusion.val} - {*lung.train, *lung.val}):
        raise ConfigError(f"{where}: nsclc-pe: {', '.join(foreign)} not in nsclc-lung; expected all of them there")
    trained_on = len(set(effusion.val) & set(lung.train))
    if trained_on != NUM_PE_VALIDATION_CASES_TRAINED_ON:
        raise ConfigError(
            f"{where}: {trained_on} validation cases of nsclc-pe are training cases of nsclc-lung; "
            f"expected {NUM_PE_VALIDATION_CASES_TRAINED_ON} as published"
        )


def _check_folds(benchmark: Benchmark, *, where: str) -> None:
    """Require that the training sets of task 1 partition the 20 cases, each with two cases of either source."""
    counts = Counter(name for fold in benchmark.covid_folds for name in fold)
    if repeated := sorted(name for name, number in counts.items() if number > 1):
        raise ConfigError(f"{where}: {', '.join(repeated)} in two folds; expected the folds to partition the cases")
    if (len(benchmark.covid_folds), len(counts)) != (5, 20):
        raise ConfigError(f"{where}: {len(benchmark.covid_folds)} folds of {len(counts)} cases; expected 5 of 20")
    for index, fold in enumerate(benchmark.covid_folds):
        sources = Counter(name.split("_")[0] for name in fold)
        if sources != {"coronacases": 2, "radiopaedia": 2}:
            raise ConfigError(f"{where}: fold {index} has {dict(sources)}; expected 2 coronacases and 2 radiopaedia")
