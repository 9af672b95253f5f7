"""The graph of a run: which stages there are, what each needs and which files say that it is done.

    download -> ingest -> labels -> fingerprint -> plan -> preprocess -> train -> predict -> score

An ensemble has members that are trained, perhaps a choice among them, and is then predicted and scored as one training:

    train -> validate -> ensemble -> predict -> score

A stage is done when all of its products exist in the output location; nothing else is remembered between two runs. It
needs every stage of which it reads a product, and not only those that come right before: what was lost since is made
again for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from orchestrator.benchmark import costs
from orchestrator.benchmark.definition import PAIR, Case, Dataset, Training
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.trainings.ensembles import common_validation
from orchestrator.search.population import Generation
from orchestrator.storage import run_paths
from orchestrator.workflow.keys import StageKey, StageKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One step of the pipeline for one case, one training or both."""

    key: StageKey
    """Which one; its text is its name in the Ray dashboard."""
    dependencies: tuple[StageKey, ...]
    """Stages that must be done before: all of which it reads a product."""
    products: tuple[str, ...]
    """Keys that exist when the stage is done."""
    expected_s: float
    """Rough duration, for ordering, for the first ETA and in the simulator; with a network on a GPU of speed 1."""
    expected_core_s: float = 0.0
    """Of a prediction, the part that a faster GPU leaves as it is."""
    memory_gib: float = 0.0
    """Memory that it takes at its most, roughly; of one with a network, what a training takes counts."""
    voxels: int = 0
    """Of its case, roughly, where it writes one: on the grid of the scanner or of the training."""
    training: Training | None = None
    """The training it works for, if it is one training's."""

    @property
    def kind(self) -> StageKind:
        """What is done."""
        return self.key.kind

    @property
    def case(self) -> Case | None:
        """The case it works on, if it is one case's."""
        return self.key.case


Graph = Mapping[StageKey, Stage]
"""Stages, those before others that need them."""
_CHECKPOINT_BYTES = 1_000_000_000
"""Final, latest and previous checkpoint of nnU-Net's network with its optimiser."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fitted:
    """A training, and the stages that make its model."""

    training: Training
    plan: StageKey
    train: StageKey
    voxels: int
    """Of a typical case on its grid."""


@dataclass(kw_only=True, slots=True)
class _Builder:
    """Collects stages; a stage that several trainings need is added once, and asked for thousands of times."""

    datasets: Mapping[str, Dataset]
    preset: Preset
    label_sets_of_case: Mapping[Case, tuple[str, ...]]
    phantoms: bool
    generation: Generation | None = None
    stages: dict[StageKey, Stage] = field(default_factory=dict)

    def add(self, stage: Stage) -> StageKey:
        self.stages.setdefault(stage.key, stage)
        return stage.key

    def voxels(self, case: Case) -> int:
        return costs.case_voxels(self.datasets[case.dataset], preset=self.preset, phantoms=self.phantoms)

    def image_voxels(self, case: Case) -> int:
        """Return the voxels of all channels."""
        return self.voxels(case) * len(self.datasets[case.dataset].channels)

    def memory_gib(self, step: costs.StepCost, cases: Iterable[Case]) -> int:
        return step.memory_gib(max(map(self.image_voxels, cases)))

    def download(self, name: str) -> StageKey:
        scans = {case.name: case for case in self.label_sets_of_case if self.datasets[case.dataset].folder == name}
        return self.add(
            Stage(
                key=StageKey(kind=StageKind.DOWNLOAD, download=name),
                dependencies=(),
                products=(run_paths.phantom_listing(name),),
                expected_s=sum(costs.GENERATE.seconds(self.image_voxels(case)) for case in scans.values()),
                memory_gib=self.memory_gib(costs.GENERATE, scans.values()),
            )
        )

    def generated(self, case: Case) -> tuple[StageKey, ...]:
        """Add what generates the download of a case, if the run does that itself."""
        return (self.download(self.datasets[case.dataset].folder),) if self.phantoms else ()

    def ingest(self, case: Case) -> StageKey:
        key = StageKey(kind=StageKind.INGEST, case=case)
        if key in self.stages:
            return key
        return self.add(
            Stage(
                key=key,
                dependencies=self.generated(case),
                products=(
                    *run_paths.case_images(case, num_channels=len(self.datasets[case.dataset].channels)),
                    run_paths.image_record(case),
                ),
                expected_s=costs.INGEST.seconds(self.image_voxels(case)),
                memory_gib=self.memory_gib(costs.INGEST, [case]),
                voxels=self.image_voxels(case),
            )
        )

    def labels(self, case: Case, label_set: str) -> StageKey:
        key = StageKey(kind=StageKind.LABELS, case=case, label_set=label_set)
        if key in self.stages:
            return key
        return self.add(
            Stage(
                key=key,
                dependencies=(self.ingest(case), *self.generated(case)),
                products=(
                    run_paths.case_labels(case, label_set=label_set),
                    run_paths.labels_record(case, label_set=label_set),
                ),
                expected_s=costs.LABELS.seconds(self.voxels(case)),
                memory_gib=self.memory_gib(costs.LABELS, [case]),
            )
        )

    def fingerprint(self, case: Case, label_set: str) -> StageKey:
        return self.add(
            Stage(
                key=StageKey(kind=StageKind.FINGERPRINT, case=case, label_set=label_set),
                dependencies=(self.ingest(case), self.labels(case, label_set)),
                products=(run_paths.fingerprint(case, label_set=label_set),),
                expected_s=costs.FINGERPRINT.seconds(self.image_voxels(case)),
                memory_gib=self.memory_gib(costs.FINGERPRINT, [case]),
            )
        )

    def plan(self, training: Training, donors: Mapping[str, Training]) -> StageKey:
        measured = [self.fingerprint(case, training.label_set) for case in (*training.train, *training.val)]
        donor = training.plans_from
        return self.add(
            Stage(
                key=StageKey(kind=StageKind.PLAN, training=training.id),
                dependencies=(*measured, *((self.plan(donors[donor], donors),) if donor else ())),
                products=(run_paths.plan(training.id),),
                expected_s=costs.plan_s(self.preset),
                memory_gib=costs.plan_memory_gib(self.preset),
                training=training,
            )
        )

    def training(self, training: Training, donors: Mapping[str, Training]) -> StageKey:
        """Add what leads to the model of a training, and to its scores if it is whole; returns the last stage."""
        fitted = self.fitted(training, donors)
        if self.generation and self.generation.until_epoch is not None:
            return fitted.train
        return self.evaluation(training, [fitted], needs=(fitted.train, fitted.plan))

    def fitted(self, training: Training, donors: Mapping[str, Training]) -> "_Fitted":
        """Add what leads to the model of a training."""
        plan = self.plan(training, donors)
        # nnU-Net brings all cases of a training to the spacing in the middle: to about the grid of the middle case.
        voxels = median_low(self.voxels(case) for case in (*training.train, *training.val))
        num_channels = len(self.datasets[training.train[0].dataset].channels)
        preprocessed = [
            self.add(
                Stage(
                    key=StageKey(kind=StageKind.PREPROCESS, training=training.id, case=case),
                    dependencies=(self.ingest(case), self.labels(case, training.label_set), plan),
                    products=(
                        run_paths.patches(training.id, case),
                        run_paths.record_of_patches(run_paths.patches(training.id, case)),
                    ),
                    expected_s=costs.PREPROCESS.seconds(voxels * num_channels),
                    memory_gib=costs.PREPROCESS.memory_gib(voxels * num_channels),
                    voxels=voxels * num_channels,
                    training=training,
                )
            )
            for case in (*training.train, *training.val)
        ]
        own, generation = self.preset.changed_by(training.model.changes), self.generation
        place = generation.place(training.id) if generation else training.id
        train = self.add(
            Stage(
                key=StageKey(kind=StageKind.TRAIN, training=training.id),
                dependencies=(plan, *preprocessed),
                products=(run_paths.final_checkpoint(place), run_paths.training_record(place)),
                expected_s=own.expected_training_s * (generation.share(own.num_epochs) if generation else 1),
                training=training,
            )
        )
        return _Fitted(training=training, plan=plan, train=train, voxels=voxels)

    def ensemble(self, ensemble: Training, donors: Mapping[str, Training]) -> None:
        """Add what leads to the models of an ensemble, to the choice of some of them, and to its scores."""
        members = [self.fitted(member, donors) for member in ensemble.members]
        models = tuple(key for one in members for key in (one.train, one.plan))
        chosen_by: tuple[StageKey, ...] = ()
        if ensemble.choose == PAIR:
            chosen_by = (self.validation(ensemble, members, needs=models),)
        elif ensemble.choose is not None:
            chosen_by = tuple(self.evaluation(one.training, [one], needs=(one.train, one.plan)) for one in members)
        settled = self.add(
            Stage(
                key=StageKey(kind=StageKind.ENSEMBLE, training=ensemble.id),
                dependencies=(*models, *chosen_by),
                products=(run_paths.ensemble_record(ensemble.id),),
                expected_s=costs.START_S,
                training=ensemble,
            )
        )
        self.evaluation(ensemble, members, needs=(settled, *models))

    def validation(self, ensemble: Training, members: Sequence["_Fitted"], *, needs: tuple[StageKey, ...]) -> StageKey:
        """Add what compares all pairs of the models of an ensemble."""
        cases = validated_cases(ensemble)
        core_s, network_s = self.prediction_s(members)
        num_folds = len(members) // len(ensemble.candidates)
        return self.add(
            Stage(
                key=StageKey(kind=StageKind.VALIDATE, training=ensemble.id),
                dependencies=(
                    *needs,
                    *(key for case in cases for key in (self.ingest(case), self.labels(case, ensemble.label_set))),
                ),
                products=(run_paths.validation_record(ensemble.id),),
                expected_s=(core_s + network_s) * len(cases) / num_folds,
                expected_core_s=core_s * len(cases) / num_folds,
                training=ensemble,
            )
        )

    def prediction_s(self, members: Sequence["_Fitted"]) -> tuple[float, float]:
        """Return the seconds that a core and a network take for a case with all of these models."""
        predicted = [costs.prediction_of_case(one.voxels, training=one.training, preset=self.preset) for one in members]
        return sum(one.core for one in predicted), sum(one.network for one in predicted)

    def evaluation(self, training: Training, models: Sequence["_Fitted"], *, needs: tuple[StageKey, ...]) -> StageKey:
        """Add what is done with the model of a training, or with those of an ensemble."""
        evaluated = evaluated_cases(training)
        core_s, network_s = self.prediction_s(models)
        predict = self.add(
            Stage(
                key=StageKey(kind=StageKind.PREDICT, training=training.id),
                dependencies=(*needs, *(self.ingest(case) for case in evaluated)),
                products=(run_paths.prediction_record(training.id),),
                expected_s=(core_s + network_s) * len(evaluated),
                expected_core_s=core_s * len(evaluated),
                training=training,
            )
        )
        return self.add(
            Stage(
                key=StageKey(kind=StageKind.SCORE, training=training.id),
                # Also what it was fitted to: each row has a digest over all cases. The final checkpoint is not read.
                dependencies=(
                    predict,
                    *(self.ingest(case) for case in training.cases),
                    *(self.labels(case, label_set) for case, label_set in used_label_sets(training)),
                ),
                products=(run_paths.results(training.id),),
                expected_s=sum(costs.SCORE.seconds(self.voxels(case)) for case in evaluated),
                memory_gib=self.memory_gib(costs.SCORE, evaluated),
                training=training,
            )
        )


def expected_bytes(stages: Iterable[Stage], *, preset: Preset) -> int:
    """Return roughly how much these stages will write: compressed cases, 16-bit patches, checkpoints."""
    checkpoints = _CHECKPOINT_BYTES if preset.base_num_features is None else _CHECKPOINT_BYTES // 100
    return sum(2 * stage.voxels + (checkpoints if stage.kind is StageKind.TRAIN else 0) for stage in stages)


def evaluated_cases(training: Training) -> tuple[Case, ...]:
    """Return every case on which a training is scored, sorted."""
    return tuple(sorted({case for evaluation in training.evaluation_sets for case in evaluation.cases}))


def validated_cases(ensemble: Training) -> tuple[Case, ...]:
    """Return the validation cases by which the members of an ensemble are chosen, sorted."""
    folds = zip(*ensemble.candidates.values(), strict=True)
    return tuple(sorted({case for members in folds for case in common_validation(members)}))


def used_label_sets(training: Training) -> tuple[tuple[Case, str], ...]:
    """Return each case of a training with each label set that is needed to fit and to score it."""
    fitted = {(case, training.label_set) for case in (*training.train, *training.val)}
    scored = {(case, one.label_set) for one in training.evaluation_sets for case in one.cases}
    return tuple(sorted(fitted | scored))


def label_sets_by_case(trainings: Iterable[Training]) -> dict[Case, tuple[str, ...]]:
    """Return the label sets that each case must have so that these trainings can be fitted and scored."""
    needed: dict[Case, set[str]] = {}
    for training in (one for named in trainings for one in (named, *named.members)):
        for case, label_set in used_label_sets(training):
            needed.setdefault(case, set()).add(label_set)
    return {case: tuple(sorted(names)) for case, names in needed.items()}


def build_graph(
    trainings: Sequence[Training],
    *,
    donors: Mapping[str, Training],
    datasets: Mapping[str, Dataset],
    preset: Preset,
    phantoms: bool,
    generation: Generation | None = None,
) -> dict[StageKey, Stage]:
    """Return every stage of the trainings by its key, stages before those that need them.

    Parameters
    ----------
    trainings
        Those to be carried out.
    donors
        By id, the trainings whose patch size and network others take over; they need not be carried out themselves.
    datasets
        By name.
    preset
        Gives the expected duration of a training.
    phantoms
        Whether the downloads are generated by the run itself.
    generation
        Of the population that the trainings are, if they are one.
    """
    builder = _Builder(
        datasets=datasets,
        preset=preset,
        label_sets_of_case=label_sets_by_case([*trainings, *donors.values()]),
        phantoms=phantoms,
        generation=generation,
    )
    for training in trainings:
        if training.members:
            builder.ensemble(training, donors)
        else:
            builder.training(training, donors)
    return builder.stages


def graph_of_study(
    study: Study,
    trainings: Sequence[Training],
    *,
    preset: Preset,
    phantoms: bool,
    generation: Generation | None = None,
) -> Graph:
    """Return every stage of trainings of a study; parameters as `build_graph`."""
    return build_graph(
        trainings,
        donors=study.donors(trainings, preset=preset),
        datasets={dataset.name: dataset for dataset in study.datasets},
        preset=preset,
        phantoms=phantoms,
        generation=generation,
    )
