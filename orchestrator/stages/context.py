"""All that the stages of one run share."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.benchmark.definition import Case, Dataset, FurtherMetric, LabelSet, Training
from orchestrator.benchmark.presets import Preset
from orchestrator.search.early_stopping import EarlyStopping
from orchestrator.search.population import Generation
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """Sent to every process that works for a run."""

    output: str
    """Location of everything that the run writes: a folder or an S3 prefix."""
    data: str | None
    """Location of the downloads; None for phantoms, which lie in the output location."""
    preset: Preset
    """How much is trained."""
    seed: int
    """Of phantoms and trainings."""
    datasets: Mapping[str, Dataset]
    """By name."""
    label_sets: Mapping[str, LabelSet]
    """By name."""
    phantom_cases: Mapping[str, tuple[Case, ...]]
    """Cases of each generated download."""
    device: str
    """`cpu` or `cuda`."""
    num_threads: int
    """Threads of torch in one process: what the process was given, so that neighbours do not slow each other down."""
    num_loader_workers: int
    """Threads that make batches for one training, or processes if nnU-Net's own pipeline does; 0 for none beside it."""
    cloud: str | None = None
    """Whose machines the nodes are, if they may be taken back after a notice."""
    early_stopping: EarlyStopping | None = None
    """How trainings are ended that are worse than others, if they are trials of a search."""
    generation: Generation | None = None
    """Where they go on and until when, if they are a population."""
    metrics: tuple[FurtherMetric, ...] = ()
    """What predictions are scored by besides DSC, NSD, HD95 and ASSD."""
    workers_per_training: int | None = None
    """Processes that fit each model together; None for what model and preset say."""

    @property
    def downloads(self) -> str:
        """Location of the downloads, generated ones included."""
        return self.data if self.data is not None else f"{self.output.rstrip('/')}/{run_paths.PHANTOM_DOWNLOADS}"

    def preset_of(self, training: Training) -> Preset:
        """Return how much is trained, with what the model of a training has otherwise."""
        return self.preset.changed_by(training.model.changes, where=training.id)

    def place_of(self, training: Training) -> str:
        """Return what stands for the id of a training where it leaves its checkpoints and its record."""
        return self.generation.place(training.id) if self.generation else training.id

    @property
    def storage(self) -> Storage:
        """The output location, opened."""
        return open_storage(self.output)
