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
def nnunet_folders() -> Iterator[Path]:
    """Context with an empty temporary folder whose `raw`, `preprocessed` and `results` are nnU-Net's folders."""
    before = {name: os.environ.get(name) for name in _FOLDERS}
    with tempfile.TemporaryDirectory(prefix="nnunet-") as folder:
        for name, subfolder in _FOLDERS.items():
            (Path(folder) / subfolder).mkdir()
            os.environ[name] = str(Path(folder) / subfolder)
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
