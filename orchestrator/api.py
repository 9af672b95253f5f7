"""What a program asks for: the same as the commands do, without a terminal."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from orchestrator.benchmark.presets import find_preset
from orchestrator.benchmark.study import Study
from orchestrator.cluster.config import load_cluster
from orchestrator.cluster.environment import use_token
from orchestrator.configuration import absolute
from orchestrator.driver.request import RunRequest
from orchestrator.errors import ConfigError, DataError
from orchestrator.shipped import LOCAL_CLUSTER
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.nnunet_classes import check_models

if TYPE_CHECKING:
    from orchestrator.driver.run import RunOutcome
    from orchestrator.results.store import ResultsStore


def make_request(
    study: Study,
    *,
    matrix: str | None = None,
    only: Sequence[str] = (),
    preset: str = "smoke",
    cluster: Path | str = LOCAL_CLUSTER,
    data: str | Path | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    redo_changed: bool = False,
) -> RunRequest:
    """Return what `run` carries out, with everything understood and nothing started; parameters and errors as `run`."""
    chosen, config = find_preset(preset), load_cluster(Path(cluster))
    if config.kind == "local" and config.num_gpus is None and chosen.is_for_cpus:
        # A miniature keeps no GPU busy: starting a process for each of its trainings would take longer than they do.
        config = replace(config, num_gpus=0)
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed {seed}: expected a number from 0 to 2^63 - 1")
    trainings = study.trainings(matrix=matrix, only=only, preset=chosen)
    check_models(training.model for training in trainings)
    return RunRequest(
        study=study,
        trainings=trainings,
        preset=chosen,
        seed=seed,
        data=_data(str(data) if data else config.data),
        output=_output(str(output) if output else config.output or f"runs/{chosen.name}"),
        cluster=config,
        redo_changed=redo_changed,
    )


def run(
    study: Study,
    *,
    matrix: str | None = None,
    only: Sequence[str] = (),
    preset: str = "smoke",
    cluster: Path | str = LOCAL_CLUSTER,
    data: str | Path | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    redo_changed: bool = False,
    progress: TextIO | None = None,
) -> "RunOutcome":
    """Train, predict, score and tabulate what is not done yet, as the command `run` does.

    Parameters
    ----------
    study
        What is trained, of `load_study`; perhaps a part of it, of its method `select`.
    matrix, only
        Which of its trainings; see `Study.trainings`.
    preset
        How much: `smoke`, `quick` or `paper`.
    cluster
        Cluster file of a kind that starts no machines; unless given, this machine.
    data
        Folder or `s3://` prefix with the downloads; None generates phantoms.
    output
        Folder or `s3://` prefix of everything that is written; unless given, what the cluster file says or
        `runs/PRESET`.
    seed
        Of phantoms and trainings.
    redo_changed
        Whether what was made of data that have changed since is made anew, instead of refused.
    progress
        Where a line now and then tells how far it is.

    Raises
    ------
    ConfigError
        For what does not fit, an output that belongs to another run, or one at which another driver is at work.
    DataError
        If headers of the data show something wrong; nothing was started then.
    ClusterError
        If the cluster cannot be reached.
    """
    request = make_request(
        study,
        matrix=matrix,
        only=only,
        preset=preset,
        cluster=cluster,
        data=data,
        output=output,
        seed=seed,
        redo_changed=redo_changed,
    )
    if request.cluster.kind == "aws":
        raise ConfigError(f"{cluster}: starts machines, which takes an answer; expected the command for it: run_all")
    require_data(request)
    if request.cluster.auth_token is not None:
        # Before Ray is imported, which reads its environment then.
        use_token(request.cluster.auth_token)
    from rich.console import Console

    from orchestrator.driver.before_start import check_before_start
    from orchestrator.driver.run import run as carry_out

    if problems := check_before_start(request):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0].line}{more}")
    return carry_out(request, console=Console(file=progress, quiet=progress is None))


def open_results(output: str | Path) -> "ResultsStore":
    """Return the results of a run: `to_pandas()` has a row a structure and case, `query(sql)` answers in Arrow."""
    from orchestrator.results.store import ResultsStore

    return ResultsStore(open_storage(str(output)))


def require_data(request: RunRequest) -> None:
    """Raise ConfigError for a preset that is not for phantoms, without data."""
    if request.data is None and request.preset.phantom_spacing_mm is None:
        raise ConfigError(
            f"--preset {request.preset.name}: trains on the real downloads; expected --data with their folder. To "
            "write full-size phantoms instead: python -m orchestrator.phantom --output FOLDER"
        )


def _data(location: str | None) -> str | None:
    if location is None:
        return None
    if "://" in location:
        return open_storage(location).location
    return str(absolute(location, option="--data"))


def _output(location: str) -> str:
    if "://" in location:
        return location
    path = absolute(location, option="--output")
    try:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError as error:
        raise ConfigError(f"--output {location}: cannot be reached ({error.strerror}); expected a folder") from error
    if not there.is_dir():
        raise ConfigError(f"--output {location}: {there} is a file; expected a folder or an s3:// prefix")
    return str(path)
