"""Stand-ins for libraries that read and write files, where nothing is read or written: a plain image has none."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_READERS = frozenset({"SimpleITK", "cc3d", "dicom2nifti", "h5py", "imagecodecs", "nibabel", "pydicom", "seaborn"})


class _Anything(type):
    """A class whose attributes are classes of its kind."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


class _Nothing(metaclass=_Anything):
    """Stands for whatever a library has; it can be called, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take anything."""


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


class _Finder(MetaPathFinder, Loader):
    """Asked last of all: what is installed is found before."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Return how to make a stand-in; None for anything else."""
        del path, target
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in _READERS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the stand-in."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""


def stand_in() -> None:
    """Let imports of these libraries succeed in this process where they are not installed."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
