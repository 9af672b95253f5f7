"""Which tables there are, and which trainings stand in each."""

from dataclasses import dataclass, replace

from orchestrator.benchmark.definition import Network, Training

_LUNG, _LESION, _JOINT = "lung", "infection", "lung-and-infection"


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpec:
    """One table: its trainings are those of one task, subtasks, split and network."""

    name: str
    """Of its files."""
    title: str
    task: int
    subtasks: tuple[str, ...]
    split: str = "20-80"
    network: Network = "3d_fullres"

    @property
    def num_folds(self) -> int:
        """Folds that the published averages pool."""
        return 1 if self.task == 2 else 5

    def holds(self, training: Training) -> bool:
        """Whether a training belongs to the table."""
        same_kind = (training.task, training.split, training.network) == (self.task, self.split, self.network)
        return same_kind and training.subtask in self.subtasks


PAPER = (
    TableSpec(name="table_IV", title="Table IV. Task 1, few-shot learning", task=1, subtasks=(_LUNG, _LESION, _JOINT)),
    TableSpec(name="table_V", title="Table V. Task 2, domain generalisation, lungs", task=2, subtasks=(_LUNG,)),
    TableSpec(name="table_VI", title="Table VI. Task 2, domain generalisation, infection", task=2, subtasks=(_LESION,)),
    TableSpec(name="task_3_lung", title="Task 3, knowledge transfer, lungs", task=3, subtasks=(_LUNG,)),
    TableSpec(name="task_3_infection", title="Task 3, knowledge transfer, infection", task=3, subtasks=(_LESION,)),
)
"""The tables of the core matrix."""

TABLES = (
    *PAPER,
    *(replace(spec, name=f"{spec.name}_2d", title=f"{spec.title}, 2D network", network="2d") for spec in PAPER),
    TableSpec(
        name="task_1_80_20", title="Task 1 with the 80/20 split", task=1, subtasks=(_LESION, _JOINT), split="80-20"
    ),
)
"""Every table; those without a training in a run are not written."""
