"""Which of some trainings are meant by patterns of names and facets."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from orchestrator.benchmark.definition import Training
from orchestrator.errors import ConfigError


def select(trainings: Sequence[Training], *, only: Sequence[str], asked: str, of: str) -> tuple[Training, ...]:
    """Return the trainings that match one of the patterns, all if there are none.

    Parameters
    ----------
    trainings
        Of which.
    only
        Shell patterns of an id or group, or of a facet: `facet=pattern`, or its very value.
    asked
        Where the patterns come from, for errors: `--only`.
    of
        What the trainings are, for errors.

    Raises
    ------
    ConfigError
        If a pattern matches nothing.
    """
    for pattern in only:
        if not any(_matches(training, pattern) for training in trainings):
            names = sorted({training.group for training in trainings} | {training.id for training in trainings})
            facets = sorted({f"{name}={value}" for training in trainings for name, value in training.facets.items()})
            near = difflib.get_close_matches(pattern, [*names, *facets], n=3, cutoff=0.4)
            hint = f"close to it: {', '.join(near)}" if near else f"patterns look like {names[0]!r} or {facets[0]!r}"
            raise ConfigError(f"{asked} {pattern}: matches none of the {len(trainings)} trainings of {of}; {hint}")
    return tuple(t for t in trainings if not only or any(_matches(t, pattern) for pattern in only))


def _matches(training: Training, pattern: str) -> bool:
    facet, is_facet, wanted = pattern.partition("=")
    if is_facet:
        value = str(training.facets[facet]) if facet in training.facets else None
        # A value such as `a[1]` is no pattern of itself.
        return value is not None and (value == wanted or fnmatchcase(value, wanted))
    return fnmatchcase(training.id, pattern) or fnmatchcase(training.group, pattern)
