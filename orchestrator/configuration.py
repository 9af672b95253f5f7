"""YAML read strictly: every key is known and has the right type, or the error says where and what was meant."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import ConfigError


def is_folder(location: str) -> bool:
    """Whether a folder of this machine is there; raises ConfigError if that cannot be seen."""
    try:
        return Path(location).is_dir()
    except OSError as error:
        raise ConfigError(f"{location}: cannot be reached ({error.strerror}); expected a readable folder") from error


def load_yaml(path: Path) -> Any:
    """Return the content of a YAML file; raises ConfigError if it is missing, not YAML or has a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a YAML file") from error
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class Section:
    """One mapping of a configuration file: keys are taken one by one, and none may be left over."""

    def __init__(self, content: Any, *, where: str) -> None:
        if not isinstance(content, Mapping):
            raise ConfigError(f"{where}: found {_kind(content)}; expected a mapping of keys to values")
        self.where = where
        self._content = dict(content)
        self._known: list[str] = []

    def take(self, key: str, expected: type | tuple[type, ...], *, default: Any = ...) -> Any:
        """Return a value and mark its key as known.

        Parameters
        ----------
        key
            Its key.
        expected
            Type or types of the value; an int is accepted where a float is expected, a bool never is a number.
        default
            Returned where the key is missing; without one that is an error.
        """
        self._known.append(key)
        if key not in self._content:
            if default is ...:
                self.finish()
                raise ConfigError(f"{self.where}: key {key!r} is missing")
            return default
        value = self._content.pop(key)
        types = expected if isinstance(expected, tuple) else (expected,)
        if float in types and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            names = " or ".join(kind.__name__ for kind in types)
            raise ConfigError(f"{self.where}: {key} is {value!r} ({_kind(value)}); expected {names}")
        return value

    def choose(self, key: str, choices: tuple[Any, ...], *, default: Any = ...) -> Any:
        """Return a value that must be one of `choices`."""
        value = self.take(key, (str, int), default=default)
        if value not in choices:
            raise ConfigError(f"{self.where}: {key} is {value!r}; expected one of {', '.join(map(str, choices))}")
        return value

    def sections(self) -> Iterator[tuple[str, "Section"]]:
        """Yield every remaining key with its mapping."""
        while self._content:
            key = next(iter(self._content))
            yield key, Section(self._content.pop(key), where=f"{self.where}: {key}")

    def finish(self) -> None:
        """Raise ConfigError if a key is left over."""
        for key in self._content:
            near = difflib.get_close_matches(str(key), self._known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(self._known)}"
            raise ConfigError(f"{self.where}: unknown key {key!r}; {hint}")


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
