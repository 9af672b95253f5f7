"""What nnU-Net expects around it: folders named by environment variables, and a standard output to talk to."""

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

_FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}


@contextmanager
def nnunet_environment(*, num_loader_processes: int) -> Iterator[Path]:
    """Context with an empty temporary folder whose `raw`, `preprocessed` and `results` are nnU-Net's folders.

    Its loaders start `num_loader_processes` processes; the environment is as before when the context ends.
    """
    with tempfile.TemporaryDirectory(prefix="nnunet-") as folder:
        variables = {name: str(Path(folder) / subfolder) for name, subfolder in _FOLDERS.items()}
        for path in variables.values():
            Path(path).mkdir()
        variables["nnUNet_n_proc_DA"] = str(num_loader_processes)
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def prints_to_log() -> Iterator[None]:
    """Context in which what nnU-Net prints goes to our log at debug level instead of the standard output."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stdout(captured):
            yield
    finally:
        for line in captured.getvalue().splitlines():
            logger.debug("nnU-Net: %s", line)
