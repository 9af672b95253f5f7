"""What nnU-Net expects around it: folders named by environment variables, and a standard output to talk to."""

import gzip
import io
import logging
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

from orchestrator.errors import DataError, OrchestratorError, is_out_of_memory
from orchestrator.processes import environment_with

Read = TypeVar("Read")

logger = logging.getLogger(__name__)

_FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}


@contextmanager
def nnunet_environment(*, num_loader_workers: int) -> Iterator[Path]:
    """Context with an empty temporary folder whose `raw`, `preprocessed` and `results` are nnU-Net's folders.

    Its loaders start `num_loader_workers` processes; the environment is as before when the context ends.
    """
    with tempfile.TemporaryDirectory(prefix="nnunet-") as folder:
        variables = {name: str(Path(folder) / subfolder) for name, subfolder in _FOLDERS.items()}
        for path in variables.values():
            Path(path).mkdir()
        variables["nnUNet_n_proc_DA"] = str(num_loader_workers)
        with environment_with(variables):
            yield Path(folder)


class _OutputOfThreads:
    """A standard output that keeps what threads within `prints_to_log` write, and lets the others through."""

    def __init__(self, output: TextIO | None) -> None:
        self.output = output
        self.num_users = 0
        self.captured = threading.local()

    def write(self, text: str) -> int:
        target = getattr(self.captured, "text", None) or self.output
        return len(text) if target is None else target.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self.output, name)


_replacing = threading.Lock()


@contextmanager
def prints_to_log() -> Iterator[None]:
    """Context in which what nnU-Net prints goes to our log at debug level instead of the standard output.

    Other threads print as before.
    """
    with _replacing:
        output = sys.stdout if isinstance(sys.stdout, _OutputOfThreads) else _OutputOfThreads(sys.stdout)
        output.num_users += 1
        sys.stdout = output
    outer, captured = getattr(output.captured, "text", None), io.StringIO()
    output.captured.text = captured
    try:
        yield
    finally:
        output.captured.text = outer
        with _replacing:
            output.num_users -= 1
            if not output.num_users and sys.stdout is output:
                sys.stdout = output.output
        for line in captured.getvalue().splitlines():
            logger.debug("nnU-Net: %s", line)


def read_with_nnunet(function: Callable[..., Read], *arguments: object, paths: Sequence[Path]) -> Read:
    """Call one of nnU-Net's readers; raises DataError that names the file if it is missing, cut short or unreadable."""
    path = paths[0]
    try:
        for path in paths:
            _read_to_the_end(path)
        return function(*arguments)
    except Exception as error:  # what the libraries of its readers raise is of any kind
        if isinstance(error, OrchestratorError) or is_out_of_memory(error):
            raise  # says nothing about the file
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise DataError(
            f"{path}: cannot be read ({reason[0]}); expected a whole image of the kind that the model was trained on"
        ) from error


def _read_to_the_end(path: Path) -> None:
    """Compare the checksum of a compressed file: ITK fills what a cut one lacks with zeros and says nothing."""
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass
