"""What a run is asked for, and what follows from that alone: its identity and its stages."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.benchmark.definition import Dataset, Training
from orchestrator.benchmark.presets import NNUNETS_OWN, Preset
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.trainings.definitions import definitions
from orchestrator.cluster.config import ClusterConfig, RunName
from orchestrator.search.early_stopping import EarlyStopping
from orchestrator.search.population import Generation
from orchestrator.workflow.graph import Graph, graph_of_study

PHANTOMS = "phantoms"
"""Stands for the location of the downloads of a run that generates them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """What is to be run, and where."""

    study: Study
    """What may be trained."""
    trainings: tuple[Training, ...]
    """Those to be carried out."""
    preset: Preset
    """How much is trained."""
    seed: int
    """Of phantoms and trainings."""
    data: str | None
    """Location of the downloads; None generates phantoms."""
    output: str
    """Location of everything that the run writes."""
    cluster: ClusterConfig
    """Where it runs."""
    early_stopping: EarlyStopping | None = None
    """How trainings are ended that are worse than others, if they are trials of a search."""
    generation: Generation | None = None
    """Where they go on and until when, if they are a population."""
    redo_changed: bool = False
    """Whether what was made of data that have changed since is removed and made anew, instead of refused."""
    until_decided: bool = False
    """Whether trainings are left out that cannot change an answer of the study any more."""
    study_file: Path | None = None
    """Where the study of a search begins that has no file of its own; None for that of the study itself."""


def datasets_of(request: RunRequest) -> dict[str, Dataset]:
    """Return the data sets by name."""
    return {dataset.name: dataset for dataset in request.study.datasets}


def trainings_of(request: RunRequest, *, ids: Collection[str] | None = None) -> tuple[Training, ...]:
    """Return every training of the study, whatever is to be carried out; with ids, those that have one of these."""
    everything = request.study.all_trainings(preset=request.preset)
    return everything if ids is None else tuple(training for training in everything if training.id in ids)


def graph_of(request: RunRequest) -> Graph:
    """Return every stage of a run."""
    return graph_of_study(
        request.study,
        request.trainings,
        preset=request.preset,
        phantoms=request.data is None,
        generation=request.generation,
    )


def name_of(request: RunRequest) -> RunName:
    """Return what people elsewhere know a run by."""
    return RunName(output=request.output, study=request.study.title, data=request.data)


def identity_of(request: RunRequest) -> dict[str, object]:
    """Return what the results of a run follow from, by name, and where its study is found."""
    return {
        "study": str((request.study_file or request.study.path).absolute()),
        "study_sha256": request.study.sha256,
        "preset": preset_record(request.preset),
        "seed": request.seed,
        "data": request.data or PHANTOMS,
    }


def definitions_of(request: RunRequest) -> dict[str, str]:
    """Return what the results of each training of the study follow from, as a digest, by id."""
    return definitions(request.study, preset=request.preset, phantoms=request.data is None)


_UNSAID = {
    "batch_size": None,
    "workers": 1,
    "checkpoint": "final",
    "momentum": None,
    "weight_decay": None,
    "schedule": (),
}
"""Fields of which runs of before they were there say nothing, with the value that these had."""


def preset_record(preset: Preset) -> dict[str, object]:
    """Return a preset as the record of a run has it."""
    return {
        # Runs of before planners and trainers had names say nnU-Net's own values where these have theirs.
        key: NNUNETS_OWN.get(key) if value is None else value
        for key, value in asdict(preset).items()
        # Looks at cases change nothing, unless weights are chosen by them.
        if (key not in _UNSAID or value != _UNSAID[key]) and (preset.chosen_by or not key.startswith("curve_"))
    }
