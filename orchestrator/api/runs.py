"""Runs: from a study to what is done, and to its results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypedDict, Unpack

from orchestrator.benchmark import loading
from orchestrator.benchmark.checks.configurations import check_configurations
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.study import ALL_MATRICES, Study
from orchestrator.benchmark.tables import load_tables
from orchestrator.benchmark.trainings.ensembles import fitted_trainings
from orchestrator.cluster.registry import load_cluster
from orchestrator.configuration import absolute, check_options
from orchestrator.driver.request import PHANTOMS, RunRequest, definitions_of, trainings_of
from orchestrator.errors import ConfigError, DataError
from orchestrator.progress import NoListener, ProgressLines
from orchestrator.shipped import LOCAL_CLUSTER, PRICES
from orchestrator.sources.nnunet_raw.survey import Describer, own_raw_folder, raw_folder_of_environment
from orchestrator.storage.filesystem import check_is_text, open_storage
from orchestrator.training.nnunet.classes import check_models

if TYPE_CHECKING:
    from orchestrator.driver.results.planned import PlannedComparison
    from orchestrator.driver.run import RunOutcome
    from orchestrator.results.store import ResultsStore
    from orchestrator.storage.interface import Storage


class RequestOptions(TypedDict, total=False):
    """What `run` may be given, by name."""

    matrix: str | None
    """Which trainings of the study; all of its first matrix unless given."""
    only: str | Sequence[str]
    """Names of trainings or groups, with `*`, or FACET=PATTERN."""
    preset: str
    """How much is trained: `smoke` (unless given), `quick`, `paper` or one of the study's own."""
    cluster: Path | str
    """Cluster file; unless given, this machine."""
    data: str | Path | None
    """Folder or prefix of a bucket with the data sets. Unless given, what the cluster file says, or for data sets in
    nnU-Net's layout the environment variable nnUNet_raw; else phantoms are generated."""
    output: str | Path | None
    """Folder or prefix of a bucket of everything that is written; unless given, what the cluster file says or
    `runs/PRESET`, of another study than the shipped one `runs/FOLDER-PRESET` with the folder of its file."""
    seed: int
    """Of phantoms and trainings; 0 unless given."""
    redo_changed: bool
    """Whether what was made of data that have changed since is made anew, instead of refused."""
    until_decided: bool
    """Whether trainings are left out that can hardly change an answer of the study any more."""


def load_study(path: Path | str | None = None, *, data: str | Path | None = None) -> Study:
    """Return the study that a file defines, the shipped one unless given.

    Parameters
    ----------
    path
        The study file.
    data
        Folder or prefix of a bucket with data sets in nnU-Net's layout, which are asked for their labels, channels and
        cases; unless given, that of the environment variable nnUNet_raw.

    Raises
    ------
    ConfigError
        If a file is missing, has an unknown key or a wrong value, or names something that is not there.
    DataError
        If a data set is not there, or not whole.
    """
    location = _data(str(data)) if data else raw_folder_of_environment()
    return loading.load_study(Path(path) if path else None, describe=Describer(location) if location else None)


def make_request(study: Study, **options: Unpack[RequestOptions]) -> RunRequest:
    """Return what `run` carries out, with everything understood and nothing started; options and errors as `run`."""
    request = _understood(study, **options)
    check_is_text(request.output, option="--output")
    return request


def _understood(study: Study, **options: Unpack[RequestOptions]) -> RunRequest:
    """Return what a run is, or was, asked for; what it has left may lie at any path by now."""
    # SimpleITK, by which data are read, takes a moment to import.
    from orchestrator.sources.registry import check_sources

    check_options(options, RequestOptions)
    chosen, config = (
        study.preset(options.get("preset", "smoke")),
        load_cluster(Path(options.get("cluster", LOCAL_CLUSTER))),
    )
    data, output, seed = options.get("data"), options.get("output"), options.get("seed", 0)
    only = options.get("only", ())
    patterns = (only,) if isinstance(only, str) else only
    if chosen.is_for_cpus:
        config = config.for_miniatures()
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed {seed}: expected a number from 0 to 2^63 - 1")
    trainings = study.trainings(matrix=options.get("matrix"), only=patterns, preset=chosen)
    check_models(training.model for training in fitted_trainings(trainings))
    check_sources(study.datasets, where=str(study.path))
    check_configurations(study, where=str(study.path))
    # They are written after the last training: what is wrong with them is said before the first.
    load_tables(study)
    return RunRequest(
        study=study,
        trainings=trainings,
        preset=chosen,
        seed=seed,
        data=_data(str(data) if data else config.data or own_raw_folder(study.datasets)),
        output=output_location(str(output) if output else config.output or usual_output(study, preset=chosen)),
        cluster=config,
        redo_changed=options.get("redo_changed", False),
        until_decided=options.get("until_decided", False),
    )


def run(study: Study, *, progress: TextIO | None = None, **options: Unpack[RequestOptions]) -> "RunOutcome":
    """Train, predict, score and tabulate what is not done yet, as the command `run` does.

    Parameters
    ----------
    study
        What is trained, of `load_study`; perhaps a part of it, of its method `select`.
    progress
        Where a line now and then tells how far it is.
    **options
        Of RequestOptions: which trainings, how much of them, where, on what data.

    Raises
    ------
    ConfigError
        For what does not fit, an output that belongs to another run, or one at which another driver is at work.
    DataError
        If headers of the data show something wrong; nothing was started then.
    ClusterError
        If the cluster cannot be reached.
    """
    request = make_request(study, **options)
    if request.cluster.is_elsewhere:
        raise ConfigError(
            f"{request.cluster.path}: starts machines, which takes an answer; expected the command, orchestrator run"
        )
    require_data(request)
    request.cluster.authenticate()
    from orchestrator.driver.before_start import check_before_start
    from orchestrator.driver.run import run as carry_out
    from orchestrator.ray_backend.on_demand import connect_to_ray

    if problems := check_before_start(request):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0].line}{more}")
    listener = ProgressLines(progress) if progress else NoListener()
    return carry_out(request, connect=connect_to_ray, listener=listener)


def open_results(output: str | Path) -> "ResultsStore":
    """Return the results of a run: `to_pandas()` has a row a structure and case, `query(sql)` answers in Arrow."""
    from orchestrator.results.store import ResultsStore

    return ResultsStore(open_storage(str(output)))


def write_report(
    output: str | Path,
    *,
    study: str | Path | None = None,
    cluster: str | Path | None = None,
    prices: str | Path = PRICES,
) -> str:
    """Write the report of a run as it stands, also while it goes on; returns where its page is.

    Parameters
    ----------
    output
        Folder or prefix of a bucket of the run.
    study
        File of the study that it trains; unless given, that with which it was started, or else the shipped one.
    cluster
        Cluster file of the run, for what its GPU hours cost where machines are rented; not known unless given.
    prices
        What those machines cost.

    Raises
    ------
    ConfigError
        If there is no run, or it is one of another study.
    """
    from orchestrator.driver.results.cost import cost_of
    from orchestrator.driver.results.shown import report_now

    storage = open_storage(str(output))
    request = request_of_run(storage, study=study)
    cost = cost_of(storage, cluster=Path(cluster), prices=Path(prices)) if cluster else None
    return f"{storage.location}/{report_now(request, storage, cost=cost)}"


def plan_comparison(
    outputs: str | Path | Sequence[str | Path], *, study: str | Path | None = None
) -> "tuple[PlannedComparison, ...]":
    """Return what the differences that a study asks for vary by, for `orchestrator.statistics.planning`.

    Parameters
    ----------
    outputs
        Folder or prefix of a bucket of a run, or of several with other seeds.
    study
        File of the study that they train; unless given, that with which each was started, or else the shipped one.

    Raises
    ------
    ConfigError
        If there is no run, or it is one of another study.
    """
    from orchestrator.driver.claim import trainings_asked_for
    from orchestrator.driver.results.planned import planned_comparisons
    from orchestrator.driver.results.shown import shown_of
    from orchestrator.results.store import ResultsStore

    runs = []
    for output in [outputs] if isinstance(outputs, str | Path) else outputs:
        storage = open_storage(output)
        request, table = request_of_run(storage, study=study), ResultsStore(storage).read()
        runs.append(shown_of(request, storage, table=table, asked_for=trainings_asked_for(storage)))
    return planned_comparisons(runs)


def request_of_run(storage: "Storage", *, study: str | Path | None) -> RunRequest:
    """Return what a run was asked for; raises ConfigError if there is none, or it is one of another study."""
    from orchestrator.driver.claim import is_of_study, place_of_study, run_of

    record = run_of(storage)
    data = None if record.data == PHANTOMS else record.data
    loaded = load_study(study or place_of_study(storage), data=data)
    if record.preset not in loaded.presets:
        raise ConfigError(
            f"{storage.location}: the run is of preset {record.preset}, which {loaded.path} does not have; expected "
            "--study with its own"
        )
    found = _run_or_sweep(storage, loaded, preset=record.preset, seed=record.seed, data=data, output=storage.location)
    if not is_of_study(storage, found.study.sha256, definitions=definitions_of(found)):
        raise ConfigError(
            f"{storage.location}: the run of another study than {loaded.path} is now, or of one as another version of "
            "this project has written it down; expected --study with its own, as it was then"
        )
    return found


def _run_or_sweep(storage: "Storage", study: Study, **options: Unpack[RequestOptions]) -> RunRequest:
    """Return the run of everything in a study, or that of the trials of a search on the cases of one training."""
    from orchestrator.results.trials import read_search

    search = read_search(storage)
    whole = _understood(study, **options)
    if search is None or not trainings_of(whole, ids={search.training}):
        return whole
    from orchestrator.sweeps.as_run import run_of_sweep

    of_training: RequestOptions = {**options, "matrix": ALL_MATRICES, "only": search.training}
    return run_of_sweep(storage, search, _understood(study, **of_training))


def require_data(request: RunRequest) -> None:
    """Raise ConfigError, without data, for a preset that is not for phantoms or a download that has none."""
    if request.data is None and request.preset.phantom_spacing_mm is None:
        raise ConfigError(
            f"--preset {request.preset.name}: trains on the real downloads; expected --data with their folder. To "
            "write full-size phantoms instead: orchestrator phantoms --output FOLDER"
        )
    require_phantoms(request)


def require_phantoms(request: RunRequest) -> None:
    """Raise ConfigError for a run on phantoms one of whose downloads has none."""
    # SimpleITK, with which they are written, takes a moment to import.
    from orchestrator.phantoms.downloads import check_downloads

    if request.data is None and request.preset.phantom_spacing_mm is not None:
        names = {case.dataset for training in request.trainings for case in training.cases}
        check_downloads([dataset for dataset in request.study.datasets if dataset.name in names])


def _data(location: str | None) -> str | None:
    if location is None:
        return None
    if "://" in location:
        return open_storage(location).location
    path = absolute(location, option="--data")
    if path.is_file():
        raise ConfigError(f"--data {location}: is a file; expected the folder with the data sets")
    return str(path)


def usual_output(study: Study, *, preset: Preset) -> str:
    """Return where a run is written if nothing says it: apart from those of other studies."""
    if study.path.resolve() == loading.DEFAULT_STUDY:
        return f"runs/{preset.name}"
    return f"runs/{study.path.absolute().parent.name}-{preset.name}"


def output_location(location: str) -> str:
    """Return the location of a run; raises ConfigError if it can be none."""
    if "://" in location:
        open_storage(location)
        return location
    path = absolute(location, option="--output")
    try:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError as error:
        raise ConfigError(f"--output {location}: cannot be reached ({error.strerror}); expected a folder") from error
    if not there.is_dir():
        raise ConfigError(f"--output {location}: {there} is a file; expected a folder or a prefix of a bucket")
    return str(path)
