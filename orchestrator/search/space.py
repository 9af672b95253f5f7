"""What a sweep varies: a YAML file with a range or a list of values for fields of a model or a preset."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from orchestrator.benchmark.presets import MODEL_FIELDS
from orchestrator.configuration import Entry, expect_known, load_yaml, understood
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

OF_A_MODEL = ("configuration", "planner", "trainer")
"""What can be varied beside the fields of a preset: nnU-Net's classes and its configuration."""
VARIED = tuple(name for name in MODEL_FIELDS if name != "schedule")
"""Fields of a preset that can be varied."""
FIDELITIES = "fidelities"
"""Key of a space file that is no setting."""
Value = bool | int | float | str | list[int] | None
"""Of a setting, as YAML has it; null is nnU-Net's own."""
_DIGITS = 4
"""That count of a number, and of how far it is from the ends of its range: more only make tables hard to read."""
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
Settings = tuple[tuple[str, object], ...]
"""Of a trial: name and value of each; lists are tuples."""
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Range = Annotated[list[_Number], Field(min_length=2, max_length=2)]
_IntRange = Annotated[list[int], Field(min_length=2, max_length=2)]


class RangeEntry(Entry):
    """The values of a setting: exactly one of the keys, which have the names that Ray Tune gives them."""

    choice: Annotated[list[Value], Field(min_length=1)] | None = None
    """One of these, drawn at random."""
    grid: Annotated[list[Value], Field(min_length=1)] | None = None
    """Each of these in turn."""
    uniform: _Range | None = None
    """Any number from the first to the second."""
    loguniform: _Range | None = None
    """The same, of which the logarithm is drawn: for what may differ by powers of ten."""
    randint: _IntRange | None = None
    """A whole number from the first to the second, both included."""
    lograndint: _IntRange | None = None
    """The same, of which the logarithm is drawn."""

    @model_validator(mode="before")
    @classmethod
    def _with_numbers(cls, content: object) -> object:
        """Take `1e4` for a number, as people mean it in a range, and for a whole one where that is asked for."""
        if not isinstance(content, dict):
            return content
        return {
            key: [_as_number(value, is_whole="int" in str(key)) for value in values]
            if isinstance(values, list)
            else values
            for key, values in content.items()
        }

    @model_validator(mode="after")
    def _is_one(self) -> "RangeEntry":
        said = self.model_dump(exclude_none=True)
        if len(said) != 1:
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"one of {known}; found {', '.join(said) or 'none'}")
        ((kind, values),) = said.items()
        if kind not in {"choice", "grid"} and not values[0] < values[1]:
            raise ValueError(f"two rising numbers for {kind}; found {values}")
        if kind.startswith("log") and not values[0] > 0:
            raise ValueError(f"numbers above 0 for {kind}; found {values}")
        return self

    @property
    def kind(self) -> str:
        """The key that is given."""
        return next(iter(self.model_dump(exclude_none=True)))

    @property
    def values(self) -> tuple[Value, ...]:
        """What is given for it."""
        return tuple(self.model_dump(exclude_none=True)[self.kind])


class FidelityEntry(Entry):
    """One of several fidelities of a space file."""

    preset: str | None = None
    """How much a trial is trained; None for the preset of the sweep."""
    folds: Annotated[int, Field(ge=1)] = 1
    """Of the training cases, on which it is trained and scored."""


class SpaceFile(Entry):
    """A space file."""

    settings: Annotated[dict[str, RangeEntry], Field(min_length=1)]
    """By name."""
    fidelities: Annotated[list[FidelityEntry], Field(min_length=2)] | None = None
    """At which trials are looked at one after the other: the best of each go on to the next, and the last one is that
    of the sweep itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What a sweep varies."""

    path: Path
    settings: Mapping[str, RangeEntry]
    """By name, of a field of a preset or of a model."""
    fidelities: tuple[FidelityEntry, ...] = ()
    """The cheapest first; none if there is but one."""

    @property
    def num_points(self) -> float:
        """How many settings there are; infinite where numbers are drawn from a range."""
        numbers = [
            len(set(self.values_of(name)))
            if entry.kind in {"choice", "grid"}
            else self._bounds(name)[1] - self._bounds(name)[0] + 1
            if "int" in entry.kind
            else math.inf
            for name, entry in self.settings.items()
        ]
        return math.prod(numbers)

    def domains(self) -> "dict[str, Domain]":
        """Return the settings as Ray Tune draws them; lists in place of numbers become positions in `values`.

        Raises ConfigError for a grid, which is not drawn.
        """
        from ray import tune

        made: dict[str, Domain] = {}
        for name, entry in self.settings.items():
            match entry.kind:
                case "choice":
                    # Samplers compare values, which lists cannot be.
                    made[name] = tune.choice(list(range(len(entry.values))))
                case "uniform" | "loguniform":
                    made[name] = getattr(tune, entry.kind)(*entry.values)
                case "randint" | "lograndint":
                    low, high = entry.values
                    made[name] = getattr(tune, entry.kind)(low, int(str(high)) + 1)
                case "grid":
                    raise ConfigError(
                        f"{self.path}: {name}: a grid takes its values in turn; expected `choice` for a sampler that "
                        "draws"
                    )
        return made

    def values_of(self, name: str) -> tuple[object, ...]:
        """Return the values of a choice or a grid; lists are tuples."""
        return tuple(tuple(value) if isinstance(value, list) else value for value in self.settings[name].values)

    def settings_of(self, drawn: Mapping[str, float]) -> Settings:
        """Return what a sampler has drawn as values of the settings."""
        found: list[tuple[str, object]] = []
        for name, entry in self.settings.items():
            value = drawn[name]
            if entry.kind == "choice":
                found.append((name, self.values_of(name)[int(value)]))
            elif "int" in entry.kind:
                low, high = self._bounds(name)
                found.append((name, int(min(high, max(low, value)))))
            else:
                found.append((name, _rounded(value, *self._bounds(name))))
        return tuple(found)

    def holds(self, settings: Settings) -> bool:
        """Whether settings, perhaps of another sweep, are a point of this space."""
        given = dict(settings)
        return set(given) == set(self.settings) and all(self._has(name, value) for name, value in given.items())

    def drawn_as(self, settings: Settings) -> dict[str, float]:
        """Return settings as `settings_of` takes them."""
        found: dict[str, float] = {}
        for name, value in settings:
            is_choice = self.settings[name].kind == "choice"
            found[name] = self.values_of(name).index(value) if is_choice else value  # type: ignore[assignment]
        return found

    def _has(self, name: str, value: object) -> bool:
        if self.settings[name].kind in {"choice", "grid"}:
            return value in self.values_of(name)
        low, high = self._bounds(name)
        return isinstance(value, int | float) and low <= value <= high

    def _bounds(self, name: str) -> tuple[float, float]:
        low, high = (float(str(value)) for value in self.settings[name].values)
        return low, high


def _rounded(value: float, low: float, high: float) -> float:
    """Return a number of a range with the digits that count."""
    finest = min(abs(value) or high - low, high - low)
    return min(high, max(low, round(value, _DIGITS - 1 - math.floor(math.log10(finest)))))


def _as_number(value: object, *, is_whole: bool) -> object:
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)
    return int(value) if is_whole and isinstance(value, float) and value.is_integer() else value


def load_space(path: Path) -> Space:
    """Return what a file says is varied.

    Raises
    ------
    ConfigError
        If the file is missing, or names a setting that there is not, with the nearest name, or values that are none.
    """
    content = load_yaml(path)
    if not isinstance(content, dict) or not content:
        found = "nothing" if not content else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: found {found}; expected settings with their ranges, a line each")
    expect_known(map(str, content), [*OF_A_MODEL, *VARIED, FIDELITIES], where=str(path), what="setting")
    said = {"settings": {name: entry for name, entry in content.items() if name != FIDELITIES}}
    for name, entry in said["settings"].items():
        if not isinstance(entry, dict):
            kinds = ", ".join(RangeEntry.model_fields)
            raise ConfigError(
                f"{path}: {name} is {entry!r:.80}; expected one of {kinds} with its values, as in `choice: [1, 2]`"
            )
    if not said["settings"]:
        raise ConfigError(f"{path}: found {FIDELITIES} alone; expected settings with their ranges, a line each")
    if FIDELITIES in content:
        said[FIDELITIES] = content[FIDELITIES]
    read = understood(said, SpaceFile, where=str(path))
    return Space(path=path, settings=read.settings, fidelities=tuple(read.fidelities or ()))
