"""The downloads that are known, by name."""

from pathlib import Path, PurePosixPath

from orchestrator.benchmark.definition import Dataset
from orchestrator.errors import ConfigError
from orchestrator.sources.covid_ct_seg import CovidCtSeg
from orchestrator.sources.layout import Layout
from orchestrator.sources.mosmed import Mosmed
from orchestrator.sources.msd import Msd
from orchestrator.sources.nsclc import Nsclc
from orchestrator.sources.structseg import StructSeg

LAYOUTS: dict[str, type[Layout]] = {layout.name: layout for layout in (CovidCtSeg, StructSeg, Nsclc, Msd, Mosmed)}


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
