"""Ids of trainings, by the template of a study."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from string import Formatter

from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError

GROUP, FOLD, SEED = "group", "fold", "seed"
_SAFE = re.compile(r"[A-Za-z0-9][\w.-]{0,149}", re.ASCII)
"""Names of files on any system, in folders and with endings of ours."""


def filled(template: str, facets: Mapping[str, str | int], *, group: str, fold: int, seed: int | None) -> str:
    """Return the id of a training by a template that `check_template` has seen."""
    return template.format(**{**facets, GROUP: group, FOLD: fold, SEED: "" if seed is None else seed})


def check_template(template: str, *, facets: Iterable[str], where: str) -> None:
    """Raise ConfigError unless a template is text with fields such as `{group}` alone."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"{where}: {template!r} is no template ({error}); expected `{{group}}-fold{{fold}}`"
        ) from error
    fields = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    if odd := [name for name, spec, conversion in fields if spec or conversion]:
        raise ConfigError(f"{where}: a format in {{{odd[0]}}}; expected names alone")
    expect_known([name for name, *_ in fields], [GROUP, FOLD, SEED, *facets], where=where, what="field")


def check_ids(ids: Sequence[str], *, template: str, where: str) -> None:
    """Raise ConfigError unless the ids of a study are names of files, and each is one training's."""
    if odd := next((one for one in ids if not _SAFE.fullmatch(one)), None):
        raise ConfigError(
            f"{where}: {template!r} makes {odd!r}; expected a name of letters, digits, `_`, `-` and `.` that files can "
            "have"
        )
    if twice := _twice(ids):
        raise ConfigError(
            f"{where}: {template!r} makes {twice} of two trainings; expected fields in which they differ, such as "
            f"{{{GROUP}}}, {{{FOLD}}} and {{{SEED}}}"
        )


def _twice(ids: Collection[str]) -> str | None:
    # Names that differ in the case of letters alone are one file for some systems.
    number = Counter(one.casefold() for one in ids)
    return next((one for one in ids if number[one.casefold()] > 1), None)
