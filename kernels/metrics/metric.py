"""A metric that a file of its own in `more/` defines."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kernels.masks.bitmask import MaskPair
from kernels.metrics import more


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What is calculated of one label of two maps."""

    name: str
    """By which it is asked for, as `volume-similarity`."""
    field: str
    """Of rows and files, with its unit at the end: `volume_similarity`, `centre_distance_mm`."""
    title: str
    """For tables, with its unit."""
    larger_is_better: bool
    """Methods are ranked by it: true for overlaps and similarities, of which 1 is the best and 0 counts for a missing
    prediction; false for distances and errors, of which 0 is the best."""
    calculate: Callable[[MaskPair, tuple[float, ...]], float]
    """Of the masks, cropped, and the spacing in mm along (z, y, x), or (y, x) in the plane; at least one mask holds the
    label."""


def further_metrics() -> Iterator[Metric]:
    """Yield the metrics that the files in `more/` define."""
    for file in pkgutil.iter_modules(more.__path__):
        yield importlib.import_module(f"{more.__name__}.{file.name}").METRIC
