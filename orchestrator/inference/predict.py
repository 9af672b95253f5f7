"""What programs and the command ask for: images predicted with a model, here or on a cluster."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from orchestrator.cluster.registry import load_cluster
from orchestrator.inference.folder import CasePrediction, FolderPrediction, PredictOptions, plan_folder, write_table
from orchestrator.inference.models import ModelSource


def predict(
    model: str | Path,
    images: str | Path,
    *,
    output: str | Path,
    training: str | None = None,
    folds: Sequence[str | int] = (),
    device: Literal["cpu", "cuda"] | None = None,
    tile_step_size: float | None = None,
    mirrors: bool | None = None,
    max_memory_gib: float | None = None,
    cluster: Path | str | None = None,
    note: Callable[[str], None] = lambda _: None,
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[CasePrediction]:
    """Predict images with a trained model, as the command `predict` does; what is done already is kept.

    Parameters
    ----------
    model
        Folder of a trained model in nnU-Net's layout, a zip of one, or the output location of a run.
    images
        An image, or a folder of images.
    output
        Folder of the label maps, of a JSON for each, and of `predictions.csv`.
    training
        Which one, where the model is a run of several.
    folds
        Which of a folder or zip; all unless given.
    device
        The GPU, where there is one, unless given.
    tile_step_size
        Step of the sliding window as a share of it; that of the model unless given.
    mirrors
        Whether predictions are averaged over mirrored images; as the model did unless given.
    max_memory_gib
        Cases that would take more fail, and say so.
    cluster
        Cluster file: predict as Ray tasks there; model and folders must be seen on its machines.
    note
        Called with lines on the model, and on what it will take, before it starts.
    on_case
        Called after each case with how many are done, and of how many.

    Returns
    -------
    list of CasePrediction
        One for each case, sorted by name. What failed is a row that says why.

    Raises
    ------
    ConfigError
        For what does not fit, a model or images that are not there, an output with predictions of another model.
    DataError
        For a model that cannot be read without running it.
    StorageError
        For a disk that fails.
    """
    chosen = PredictOptions(
        device=device or _device(),
        tile_step_size=tile_step_size,
        mirrors=mirrors,
        max_memory_gib=max_memory_gib,
        num_threads=None if cluster is None else 1,
    )
    source = ModelSource(location=str(model), training=training, folds=tuple(map(str, folds)))
    work = plan_folder(source, Path(images), str(output), options=chosen)
    for line in filter(None, (*work.notes, work.announcement())):
        note(line)
    rows = []
    finished = map(work.predict, work.names()) if cluster is None else _on_cluster(work, cluster_file=Path(cluster))
    for row in finished:
        rows.append(row)
        on_case(len(rows), len(work.cases))
    rows.sort(key=lambda row: row.case)
    write_table(str(output), rows)
    return rows


def _device() -> Literal["cpu", "cuda"]:
    from orchestrator.training.gpu import has_gpu

    return "cuda" if has_gpu() else "cpu"


def _on_cluster(work: FolderPrediction, *, cluster_file: Path) -> Iterator[CasePrediction]:
    """Predict each case as a Ray task, and yield what has become of it as it comes."""
    config = load_cluster(cluster_file)
    config.authenticate()
    from orchestrator.ray_backend.connect import connected
    from orchestrator.ray_backend.executor import map_unordered

    with connected(config, run=None):
        yield from map_unordered(work.predict, work.names(), name="predict")
