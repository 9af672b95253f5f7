"""The downloads that are known, by name: every layout that a file in `layouts/` defines."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.benchmark.definition import NNUNET_RAW, Dataset
from orchestrator.configuration import expect_known
from orchestrator.sources import layouts
from orchestrator.sources.layout import Layout
from orchestrator.sources.nnunet_raw.layout import NnunetRaw
from orchestrator.sources.nnunet_raw.survey import concerned_keys
from orchestrator.storage.interface import Storage


def _defined_layouts() -> Iterator[type[Layout]]:
    for file in pkgutil.iter_modules(layouts.__path__):
        module = importlib.import_module(f"{layouts.__name__}.{file.name}")
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, Layout) and found.__module__ == module.__name__:
                yield found


LAYOUTS: dict[str, type[Layout]] = {layout.name: layout for layout in _defined_layouts()}


def check_sources(datasets: Iterable[Dataset], *, where: str) -> None:
    """Raise ConfigError, with the nearest name, for a download or a label set of one of which nothing is known.

    Parameters
    ----------
    datasets
        Of a study.
    where
        Its file, for messages.
    """
    for dataset in datasets:
        if dataset.source != NNUNET_RAW:
            place = f"{where}: datasets.{dataset.name}"
            expect_known([dataset.source], LAYOUTS, where=f"{place}.source", what="download")
            offered = LAYOUTS[dataset.source].rules
            what = f"label set of {dataset.source}"
            expect_known(dataset.label_sets, offered, where=f"{place}.label_sets", what=what)


def open_layout(dataset: Dataset, *, downloads: Path) -> Layout:
    """Return the layout of a data set's download; raises SourceError if its folder is not there.

    Raises
    ------
    ConfigError
        If nothing is known of a download of that name.
    SourceError
        If its folder is not there.
    """
    if dataset.source == NNUNET_RAW:
        return NnunetRaw(dataset, downloads=downloads)
    expect_known([dataset.source], LAYOUTS, where=f"data set {dataset.name}", what="download")
    return LAYOUTS[dataset.source](downloads)


def concerned_files(keys: Sequence[str], *, storage: Storage, download: str, case_name: str) -> list[str]:
    """Return which files of a download, by their names below the data folder, can be needed to convert a case."""
    if download not in LAYOUTS:
        return concerned_keys(keys, storage=storage, folder=download, case_name=case_name)
    return [key for key in keys if LAYOUTS[download].may_concern(PurePosixPath(key), case_name=case_name)]
