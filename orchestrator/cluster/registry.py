"""The kinds of clusters: all that files in `kinds/` define, by name. Reads a cluster file strictly."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.cluster import kinds
from orchestrator.cluster.config import ClusterConfig
from orchestrator.configuration import load_yaml, understood
from orchestrator.errors import ConfigError
from orchestrator.shipped import or_shipped


def _defined_kinds() -> Iterator[type[ClusterConfig]]:
    for file in pkgutil.iter_modules(kinds.__path__):
        module = importlib.import_module(f"{kinds.__name__}.{file.name}")
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, ClusterConfig) and found.__module__ == module.__name__:
                yield found


KINDS: dict[str, type[ClusterConfig]] = {kind.model_fields["kind"].default: kind for kind in _defined_kinds()}


def load_cluster(path: Path) -> ClusterConfig:
    """Read a cluster file, perhaps one that comes along, such as `clusters/local.yaml`.

    Raises
    ------
    ConfigError
        If the file is missing, has an unknown key or a wrong value, or is not what its kind understands.
    """
    path = or_shipped(path)
    content = load_yaml(path)
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else type(content).__name__
        raise ConfigError(f"{path}: found {found}; expected a mapping of keys to values")
    if "kind" not in content:
        raise ConfigError(f"{path}: key 'kind' is missing; expected one of {', '.join(KINDS)}")
    kind = content["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{path}: kind is {kind!r:.200}; expected one of {', '.join(KINDS)}{hint}")
    config = understood(content, KINDS[kind], where=str(path), context=path)
    config.check()
    return config
