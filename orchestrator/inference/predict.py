"""What programs and the command ask for: images predicted with a model, here or on a cluster."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from orchestrator.benchmark.loading import load_study
from orchestrator.cluster.registry import load_cluster
from orchestrator.configuration import check_options
from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.inference.ensembles import model_sources
from orchestrator.inference.folder import CasePrediction, FolderPrediction, plan_folder, write_table
from orchestrator.inference.models import ModelSource, is_run
from orchestrator.inference.options import Device, PredictOptions
from orchestrator.inference.output_folder import cases_with_record, check_claim
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import check_is_text, open_storage
from orchestrator.storage.json_files import read_json


class PredictRequest(TypedDict, total=False):
    """What `predict` may be given besides, by name."""

    training: str | None
    """Which one, where the model is a run of several."""
    folds: Sequence[str | int] | int
    """Which one or several of a folder or zip; all unless given."""
    checkpoint: str | None
    """Name of the weights of a folder or zip, such as `checkpoint_best.pth`; the final ones unless given."""
    device: Device | None
    """The GPU, where there is one, unless given."""
    tile_step_size: float | None
    """Step of the sliding window as a share of it; that of the model unless given."""
    mirrors: bool | None
    """Whether predictions are averaged over mirrored images; as the model did unless given."""
    max_memory_gib: float | None
    """Cases that would take more fail, and say so."""
    structures: Sequence[str]
    """The one or several that the label maps keep; all unless given."""
    save_probabilities: bool
    """Whether probabilities are written beside, as nnU-Net does."""
    study: Path | str | None
    """Study file beside which `tables.yaml` has codes of structures and derived values; that of a run of the study that
    comes along unless given."""
    overlays: bool
    """Whether pictures of the label maps are drawn: three planes, and a mosaic of slices."""
    dicom_seg: bool
    """Whether label maps of DICOM series are written as DICOM Segmentation, too."""
    dicom_rtstruct: bool
    """Whether they are written as contours (DICOM RT Structure Set), too."""
    cluster: Path | str | None
    """Cluster file: predict as Ray tasks there; model and folders must be seen on its machines."""
    note: Callable[[str], None]
    """Called with lines on the model, and on what it will take, before it starts."""
    on_case: Callable[[int, int], None]
    """Called after each case with how many are done, and of how many."""


def predict(
    model: str | Path | Sequence[str | Path],
    images: str | Path,
    *,
    output: str | Path,
    **options: Unpack[PredictRequest],
) -> list[CasePrediction]:
    """Predict images with a trained model, as the command `predict` does; what is done already is kept.

    Parameters
    ----------
    model
        Folder of a trained model in nnU-Net's layout, a zip of one, or the output location of a run; a YAML file of
        several, or a list of these, whose probabilities are averaged.
    images
        An image, a DICOM series, a folder of these, or a CSV file with the columns `case` and `image`.
    output
        Folder of the label maps, of a JSON for each, and of `predictions.csv`, with earlier cases too.
    **options
        Of PredictRequest: which folds, how it is predicted, what is written beside, where it is calculated.

    Returns
    -------
    list of CasePrediction
        One for each case, sorted by name. What failed is a row that says why.

    Raises
    ------
    ConfigError
        For what does not fit, a model or images that are not there, an output with predictions of another model.
    DataError, StorageError
        For a model that cannot be read without running it; for a disk that fails.
    """
    check_options(options, PredictRequest)
    cluster = options.get("cluster")
    work = _planned([model] if isinstance(model, str | Path) else model, images, str(output), options)
    memory = work.memory(is_alone=cluster is not None)
    work.claim()
    if note := options.get("note"):
        for line in filter(None, (*work.notes, work.announcement(memory))):
            note(line)
    rows = []
    for row in work.rows(memory) if cluster is None else _on_cluster(work, cluster_file=Path(cluster)):
        rows.append(row)
        if on_case := options.get("on_case"):
            on_case(len(rows), len(work.cases))
    # The table of a folder is not to say that all cases failed since others had claimed it at the same moment.
    check_claim(open_storage(work.output), work.identity)
    write_table(str(output), [*rows, *_rows_of_others(work)])
    return sorted(rows, key=lambda row: row.case)


def _rows_of_others(work: FolderPrediction) -> Iterator[CasePrediction]:
    """Yield the cases of earlier calls whose label maps are there, as their records tell them."""
    storage, own = open_storage(work.output), set(work.names())
    for name in cases_with_record(storage):
        if name in own or not work.is_done(storage, name):
            continue
        try:
            yield work.row_of(storage, name, status="kept", notes=())
        except IntegrityError as error:
            yield CasePrediction(case=name, status="failed", message=str(error))


def _planned(
    models: Sequence[str | Path], images: str | Path, output: str, options: PredictRequest
) -> FolderPrediction:
    """Read the models, and find the images."""
    check_is_text(output, option="--output")
    if not isinstance(images, str | Path):
        raise ConfigError(
            f"images: {images!r:.200}; expected one path, of an image, a folder or a table. Give the folder of several "
            "images, or a CSV file with the columns case and image"
        )
    folds = _one_or_several(options.get("folds", ()))
    training, checkpoint = options.get("training"), options.get("checkpoint")
    sources = model_sources(list(map(str, models)), training=training, folds=folds, checkpoint=checkpoint)
    return plan_folder(sources, Path(images), output, options=_chosen(options, sources))


def _chosen(options: PredictRequest, sources: Sequence[ModelSource]) -> PredictOptions:
    study = options.get("study") or _study_of_runs(sources)
    return PredictOptions(
        device=_device(options),
        tile_step_size=options.get("tile_step_size"),
        mirrors=options.get("mirrors"),
        max_memory_gib=options.get("max_memory_gib"),
        num_threads=None if options.get("cluster") is None else 1,
        structures=_one_or_several(options.get("structures", ())),
        save_probabilities=options.get("save_probabilities", False),
        study=None if study is None else str(study),
        overlays=options.get("overlays", False),
        dicom_seg=options.get("dicom_seg", False),
        dicom_rtstruct=options.get("dicom_rtstruct", False),
    )


def _study_of_runs(sources: Sequence[ModelSource]) -> Path | None:
    """Return the study that comes along if all models are of its runs."""
    if not all(is_run(source.location) for source in sources):
        return None
    shipped = load_study()
    said = [read_json(open_storage(source.location), run_paths.RUN).get("study_sha256") for source in sources]
    return shipped.path if set(said) == {shipped.sha256} else None


def _one_or_several(given: Sequence[str | int] | int) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, str | int) else tuple(map(str, given))


def _device(options: PredictRequest) -> Device:
    """Return where it is predicted; raises ConfigError for a GPU that is not there."""
    from orchestrator.training.gpu import has_gpu

    asked = options.get("device")
    if asked == "cuda" and options.get("cluster") is None and not has_gpu():
        raise ConfigError(
            "device cuda: torch finds no GPU that it can use; expected one, with a build of PyTorch that suits its "
            "driver. Predict with the device cpu, or on a cluster"
        )
    return asked or ("cuda" if has_gpu() else "cpu")


def _on_cluster(work: FolderPrediction, *, cluster_file: Path) -> Iterator[CasePrediction]:
    """Predict each case as a Ray task, and yield what has become of it as it comes."""
    config = load_cluster(cluster_file)
    config.authenticate()
    from orchestrator.ray_backend.connect import connected
    from orchestrator.ray_backend.executor import map_unordered

    def lost(name: str) -> CasePrediction:
        message = "the process that predicted it died, perhaps for want of memory; the same command tries it again"
        return CasePrediction(case=name, status="failed", message=message)

    with connected(config, run=None):
        yield from map_unordered(work.predict, work.names(), name="predict", lost=lost)
