"""The downloads that are known, by name: every layout that a file in `layouts/` defines."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from orchestrator.benchmark.definition import Dataset
from orchestrator.errors import ConfigError
from orchestrator.sources import layouts
from orchestrator.sources.layout import Layout


def _defined_layouts() -> Iterator[type[Layout]]:
    for file in pkgutil.iter_modules(layouts.__path__):
        module = importlib.import_module(f"{layouts.__name__}.{file.name}")
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, Layout) and found.__module__ == module.__name__:
                yield found


LAYOUTS: dict[str, type[Layout]] = {layout.name: layout for layout in _defined_layouts()}


def open_layout(dataset: Dataset, *, downloads: Path) -> Layout:
    """Return the layout of a data set's download; raises SourceError if its folder is not there.

    Raises
    ------
    ConfigError
        If nothing is known of a download of that name.
    SourceError
        If its folder is not there.
    """
    if dataset.source not in LAYOUTS:
        raise ConfigError(
            f"data set {dataset.name}: unknown download {dataset.source!r}; expected one of {', '.join(LAYOUTS)}"
        )
    return LAYOUTS[dataset.source](downloads)


def may_concern(key: str, *, download: str, case_name: str) -> bool:
    """Whether a file of a download, by its name below the data folder, can be needed to convert a case."""
    return download not in LAYOUTS or LAYOUTS[download].may_concern(PurePosixPath(key), case_name=case_name)
