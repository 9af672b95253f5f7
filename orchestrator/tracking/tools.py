"""The tracking tools that trainings are written for, each imported where it is asked for."""

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.errors import ConfigError
from orchestrator.processes import environment_with
from orchestrator.tracking.tracked import TrackedRun

_OFFLINE = {
    "DO_NOT_TRACK": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
}
"""What keeps these tools from asking or telling anybody anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A tracking tool."""

    module: str
    """Of this room, that writes for it."""
    package: str
    """That must be importable."""
    extra: str
    """Of this project, that installs it."""
    look: str
    """How people look at what was written."""


TOOLS: Mapping[str, Tool] = {
    "mlflow": Tool(
        module="for_mlflow",
        package="mlflow",
        extra="mlflow",
        look="mlflow ui --backend-store-uri sqlite:///mlflow.db, called in that folder",
    ),
    "wandb": Tool(module="for_wandb", package="wandb", extra="wandb", look="wandb sync wandb/offline-run-*"),
    "trackio": Tool(module="for_trackio", package="trackio", extra="trackio", look="TRACKIO_DIR=FOLDER trackio show"),
}


class Write(Protocol):
    """What the module of a tool has under this name."""

    def __call__(self, runs: Iterable[TrackedRun], *, folder: Path, told: Callable[[TrackedRun], None]) -> None:
        """Write trainings to a folder of the tool, the same ones in their places; `told` gets each when it is there."""


def export_runs(
    runs: Iterable[TrackedRun], *, to: str, folder: Path, told: Callable[[TrackedRun], None] = lambda _: None
) -> None:
    """Write trainings for a tool.

    Nothing is sent anywhere. What an earlier call has written of the same trainings is replaced.

    Parameters
    ----------
    runs
        The trainings.
    to
        One of TOOLS.
    folder
        Where the tool keeps its files.
    told
        Gets each training when it is there.

    Raises
    ------
    ConfigError
        If the tool is not known or not installed, or the folder cannot be written.
    """
    if to not in TOOLS:
        raise ConfigError(f"--to {to}: unknown; expected one of {', '.join(TOOLS)}")
    tool = TOOLS[to]
    with _offline():
        try:
            importlib.import_module(tool.package)
        except ImportError as error:
            raise ConfigError(
                f"--to {to}: {tool.package} cannot be imported ({error}); expected pip install "
                f"'nnunet-orchestrator[{tool.extra}]'"
            ) from error
        write: Write = importlib.import_module(f"orchestrator.tracking.{tool.module}").write
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(runs, folder=folder, told=told)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written ({error.strerror}); expected a folder") from error


@contextmanager
def _offline() -> Iterator[None]:
    """Context in which the tools ask nobody, and tell nobody what is old in them; all is as before afterwards."""
    with environment_with(_OFFLINE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
