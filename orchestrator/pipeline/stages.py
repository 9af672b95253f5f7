"""The graph of a run: which stages there are, what each needs and which files say that it is done.

    download -> ingest -> fingerprint -> plan -> preprocess -> train -> predict -> score

A stage is done when all of its products exist in the output location; nothing else is remembered between two runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.benchmark.definition import Case, Dataset, Training
from orchestrator.benchmark.presets import Preset
from orchestrator.storage import run_paths


class StageKind(StrEnum):
    """A step of the pipeline."""

    DOWNLOAD = "download"
    """Generate one phantom download (real downloads are already there)."""
    INGEST = "ingest"
    """Turn one case of a download into an image and its label maps."""
    FINGERPRINT = "fingerprint"
    """Measure one training case as nnU-Net does."""
    PLAN = "plan"
    """Make the nnU-Net plans of one training."""
    PREPROCESS = "preprocess"
    """Preprocess one case for one training into an Arrow patch file."""
    TRAIN = "train"
    """Fit one model."""
    PREDICT = "predict"
    """Predict every evaluation case of one training."""
    SCORE = "score"
    """Score the predictions of one training and commit its rows."""

    @property
    def uses_network(self) -> bool:
        """Whether it computes with a network: on a GPU where there is one."""
        return self in {StageKind.TRAIN, StageKind.PREDICT}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One step of the pipeline for one case, one training or both."""

    id: str
    """Unique; also its name in the Ray dashboard."""
    kind: StageKind
    """What is done."""
    needs: tuple[str, ...]
    """Ids of the stages that must be done before."""
    products: tuple[str, ...]
    """Keys that exist when the stage is done."""
    expected_s: float
    """Rough duration, for ordering and for the first ETA."""
    training: Training | None = None
    """The training it works for, if it is one training's."""
    case: Case | None = None
    """The case it works on, if it is one case's."""
    label_sets: tuple[str, ...] = ()
    """Label sets that it reads or writes."""
    download: str = ""
    """The download that it generates or reads."""


_VOXELS_FULL_SIZE = 512 * 512 * 120
"""Of a typical full-size CT; phantoms of a coarser spacing have fewer."""
_THORAX_MM3 = 400.0 * 320.0 * 320.0
_CHECKPOINT_BYTES = 1_000_000_000
"""Final, latest and previous checkpoint of nnU-Net's network with its optimiser."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCosts:
    """Rough seconds of each kind of stage but training, on one core or one GPU."""

    download: float = 10.0
    ingest: float = 0.5
    fingerprint: float = 0.2
    plan: float = 1.0
    preprocess: float = 0.3
    predict_case: float = 0.5
    score_case: float = 0.1


@dataclass(kw_only=True, slots=True)
class _Builder:
    """Collects stages; a stage that several trainings need is added once."""

    datasets: Mapping[str, Dataset]
    preset: Preset
    label_sets_of_case: Mapping[Case, tuple[str, ...]]
    phantoms: bool
    costs: StageCosts = StageCosts()
    stages: dict[str, Stage] = field(default_factory=dict)

    def add(self, stage: Stage) -> str:
        self.stages.setdefault(stage.id, stage)
        return stage.id

    def download(self, name: str) -> str:
        return self.add(
            Stage(
                id=f"download {name}",
                kind=StageKind.DOWNLOAD,
                needs=(),
                products=(run_paths.phantom_marker(name),),
                expected_s=self.costs.download,
                download=name,
            )
        )

    def ingest(self, case: Case) -> str:
        download = self.datasets[case.dataset].download
        label_sets = self.label_sets_of_case[case]
        return self.add(
            Stage(
                id=f"ingest {case.id}",
                kind=StageKind.INGEST,
                needs=(self.download(download),) if self.phantoms else (),
                products=(
                    *(run_paths.case_labels(case, label_set=name) for name in label_sets),
                    run_paths.case_record(case),
                ),
                expected_s=self.costs.ingest,
                case=case,
                label_sets=label_sets,
                download=download,
            )
        )

    def fingerprint(self, case: Case, label_set: str) -> str:
        return self.add(
            Stage(
                id=f"fingerprint {case.id} {label_set}",
                kind=StageKind.FINGERPRINT,
                needs=(self.ingest(case),),
                products=(run_paths.fingerprint(case, label_set=label_set),),
                expected_s=self.costs.fingerprint,
                case=case,
                label_sets=(label_set,),
            )
        )

    def plan(self, training: Training, donors: Mapping[str, Training]) -> str:
        measured = [self.fingerprint(case, training.subtask) for case in (*training.train, *training.val)]
        donor = training.plan_donor
        return self.add(
            Stage(
                id=f"plan {training.id}",
                kind=StageKind.PLAN,
                needs=(*measured, *((self.plan(donors[donor], donors),) if donor else ())),
                products=(run_paths.plan(training.id),),
                expected_s=self.costs.plan,
                training=training,
            )
        )

    def training(self, training: Training, donors: Mapping[str, Training]) -> None:
        plan = self.plan(training, donors)
        preprocessed = [
            self.add(
                Stage(
                    id=f"preprocess {training.id} {case.id}",
                    kind=StageKind.PREPROCESS,
                    needs=(plan,),
                    products=(run_paths.patches(training.id, case),),
                    expected_s=self.costs.preprocess,
                    training=training,
                    case=case,
                    label_sets=(training.subtask,),
                )
            )
            for case in (*training.train, *training.val)
        ]
        train = self.add(
            Stage(
                id=f"train {training.id}",
                kind=StageKind.TRAIN,
                needs=(plan, *preprocessed),
                products=(run_paths.final_checkpoint(training.id), run_paths.training_record(training.id)),
                expected_s=self.preset.expected_training_s,
                training=training,
            )
        )
        evaluated = sorted({case for evaluation in training.evaluation_sets for case in evaluation.cases})
        predict = self.add(
            Stage(
                id=f"predict {training.id}",
                kind=StageKind.PREDICT,
                needs=(train, *(self.ingest(case) for case in evaluated)),
                products=(run_paths.prediction_record(training.id),),
                expected_s=self.costs.predict_case * len(evaluated),
                training=training,
            )
        )
        self.add(
            Stage(
                id=f"score {training.id}",
                kind=StageKind.SCORE,
                needs=(predict,),
                products=(run_paths.results(training.id),),
                expected_s=self.costs.score_case * len(evaluated),
                training=training,
            )
        )


def expected_bytes(stages: Iterable[Stage], *, preset: Preset) -> int:
    """Return roughly how much these stages will write: compressed cases, 16-bit patches, checkpoints."""
    voxels = _VOXELS_FULL_SIZE
    if preset.phantom_spacing_mm is not None:
        voxels = min(voxels, round(_THORAX_MM3 / preset.phantom_spacing_mm**3))
    checkpoints = _CHECKPOINT_BYTES if preset.base_num_features is None else _CHECKPOINT_BYTES // 100
    written = {StageKind.INGEST: 2 * voxels, StageKind.PREPROCESS: 2 * voxels, StageKind.TRAIN: checkpoints}
    return sum(written.get(stage.kind, 0) for stage in stages)


def label_sets_by_case(trainings: Iterable[Training]) -> dict[Case, tuple[str, ...]]:
    """Return the label sets that each case must have so that these trainings can be fitted and scored."""
    needed: dict[Case, set[str]] = {}
    for training in trainings:
        for case in (*training.train, *training.val):
            needed.setdefault(case, set()).add(training.subtask)
        for evaluation in training.evaluation_sets:
            for case in evaluation.cases:
                needed.setdefault(case, set()).add(evaluation.label_set)
    return {case: tuple(sorted(names)) for case, names in needed.items()}


def build_graph(
    trainings: Sequence[Training],
    *,
    donors: Mapping[str, Training],
    datasets: Mapping[str, Dataset],
    preset: Preset,
    phantoms: bool,
) -> dict[str, Stage]:
    """Return every stage of the trainings by id, stages before those that need them.

    Parameters
    ----------
    trainings
        Those to be carried out.
    donors
        By id, the task-1 trainings whose patch size and network others take over; they need not be carried out
        themselves.
    datasets
        By name.
    preset
        Gives the expected duration of a training.
    phantoms
        Whether the downloads are generated by the run itself.
    """
    builder = _Builder(
        datasets=datasets,
        preset=preset,
        label_sets_of_case=label_sets_by_case([*trainings, *donors.values()]),
        phantoms=phantoms,
    )
    for training in trainings:
        builder.training(training, donors)
    return builder.stages
