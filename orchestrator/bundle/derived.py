"""Everything in a bundle that follows from its inputs: tables, report, splits, where each model comes from."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.leaks import AlikeCases
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.raw_dataset import Describe, RawDataset
from orchestrator.benchmark.study import Study, split_sha256
from orchestrator.benchmark.tables import TableLayout, load_tables
from orchestrator.bundle import names
from orchestrator.bundle.facts import RunFacts
from orchestrator.bundle.study_files import Descriptions, files_beside
from orchestrator.driver.request import preset_record
from orchestrator.driver.results.shown import with_decisions, write_run_report
from orchestrator.errors import ConfigError, IntegrityError, OrchestratorError
from orchestrator.events import finite_or_null, read_events
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.tables import write_tables
from orchestrator.results.records import ResultRow
from orchestrator.results.store import ResultsStore, from_table
from orchestrator.stages.records.alike import alike_of
from orchestrator.storage import run_paths
from orchestrator.storage.memory import MemoryStorage
from orchestrator.workflow.keys import StageKey

LOCATION = "this bundle"
"""As the report names where its scores are."""
_README = """# {title}

A sealed bundle: what the tables and the report of a run rest on, without the run.

- `report/index.html`: the page to read first; `tables/`: the tables of the study.
- `results/`: every score, one Parquet file a training; `report/scores.csv` holds the same.
- `study/`: what was trained on which cases; `splits.json`: the same, training by training.
- `trainings.json`: versions, seed, preset and digests of each training.
- `ro-crate-metadata.json`: all of this for machines (RO-Crate 1.1); `manifest-sha256.txt`: a digest of each file.

`sha256sum --check manifest-sha256.txt` compares the files. `orchestrator bundle --verify FILE` also calculates every
cell of every table anew from the scores. Neither needs the run or a network.

Made with {made_with}.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """What follows from the inputs of a bundle."""

    facts: RunFacts
    title: str
    """Of the study."""
    origins: Mapping[str, Mapping[str, object]]
    """Training to what its scores come from."""
    files: Mapping[str, bytes]
    problems: tuple[str, ...]
    """Where the inputs contradict each other, a line each."""


def derived_from(inputs: Mapping[str, bytes]) -> Derived:
    """Return everything that follows from the inputs of a bundle.

    Raises
    ------
    OrchestratorError
        If an input is missing or not what it should be.
    """
    storage = MemoryStorage(LOCATION, files={name: inputs[name] for name in inputs if not name.startswith("study/")})
    broken = tuple(_broken(inputs, storage))
    if broken:
        raise IntegrityError("; ".join(broken))
    facts = RunFacts.from_bytes(inputs[names.RUN])
    study, layout, of_study = _study(inputs)
    preset = study.preset(str(facts.preset.get("name")))
    table = ResultsStore(storage).read()
    scored = set(table["training_id"].to_pylist())
    trainings = tuple(
        training for training in study.all_trainings(preset=preset) if training.id in {*facts.trainings, *scored}
    )
    reported = with_decisions(
        Reported(
            study=study,
            trainings=trainings,
            table=table,
            layout=layout,
            warnings=tuple(facts.warnings),
            alike=_alike(facts),
        ),
        plan=facts.until_decided,
    )
    write_tables(storage, reported, failed=_lost(facts))
    write_run_report(reported, storage, failed=facts.failures)
    files = {name: content for name, content in storage.files.items() if name not in inputs}
    origins = _origins(reported)
    made_with = ", ".join(f"{name} {version}" for name, version in facts.made_with.items())
    files[names.SPLITS] = _json({training.id: _split(training) for training in trainings})
    files[names.TRAININGS] = _json(origins)
    files[names.README] = _README.format(title=study.title, made_with=made_with).encode()
    return Derived(
        facts=facts,
        title=study.title,
        origins=origins,
        files=files,
        problems=(
            *_problems(facts, reported, preset=preset),
            *_unsealed(facts, inputs),
            *_strange(inputs, of_study=of_study),
        ),
    )


def _strange(inputs: Mapping[str, bytes], *, of_study: frozenset[str]) -> Iterator[str]:
    """Yield which files beside the study are none of its own."""
    for name in inputs:
        if name.startswith("study/") and name not in of_study:
            yield f"{name}: belongs to nothing; expected none but the files that the study names"


def _unsealed(facts: RunFacts, inputs: Mapping[str, bytes]) -> Iterator[str]:
    """Yield which inputs are not those that the record of the run names."""
    if facts.to_bytes() != inputs[names.RUN]:
        yield f"{names.RUN}: not written as a bundle writes it"
    for name in sorted({*facts.sealed, *inputs} - {names.RUN}):
        if name not in inputs or sha256(inputs[name]).hexdigest() != facts.sealed.get(name):
            yield f"{name}: missing, added or changed: it is not what {names.RUN} has a digest of"


def _broken(inputs: Mapping[str, bytes], storage: MemoryStorage) -> Iterator[str]:
    """Yield what is wrong with each input by itself: one that is broken hides no other."""
    if missing := [name for name in (names.RUN, names.STUDY) if name not in inputs]:
        yield f"{', '.join(missing)}: missing; without it nothing can be calculated"
    results = [name for name in inputs if name.startswith(f"{run_paths.RESULTS}/")]
    readers: list[Callable[[], object]] = [
        lambda: RunFacts.from_bytes(inputs.get(names.RUN, b"")),
        lambda: _study(inputs),
        lambda: read_events(storage),
        *(ResultsStore(MemoryStorage(LOCATION, files={name: inputs[name]})).read for name in results),
    ]
    for read in readers:
        try:
            read()
        except OrchestratorError as error:
            yield str(error)


def _study(inputs: Mapping[str, bytes]) -> tuple[Study, TableLayout, frozenset[str]]:
    """Return the study of a bundle, its tables, and which files belong to it."""
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        for name, content in inputs.items():
            if name.startswith("study/"):
                (Path(folder) / Path(name).name).write_bytes(content)
        try:
            study = load_study(Path(folder) / Path(names.STUDY).name, describe=_describer(inputs))
            beside = map(names.of_study, files_beside(study.path))
            return study, load_tables(study), frozenset({names.STUDY, names.DESCRIPTIONS, *beside})
        except OrchestratorError as error:
            raise IntegrityError(str(error).replace(f"{folder}/", "study/")) from error


def _describer(inputs: Mapping[str, bytes]) -> Describe:
    """Return what answers for data sets that are not there."""
    try:
        known = Descriptions.validate_json(inputs.get(names.DESCRIPTIONS, b"{}"))
    except ValueError as error:
        raise IntegrityError(f"{names.DESCRIPTIONS}: not what data sets say of themselves") from error

    def describe(folder: str) -> RawDataset:
        if folder not in known:
            raise ConfigError(f"{names.DESCRIPTIONS}: nothing of {folder}; expected what it says of itself")
        return known[folder]

    return describe


def _alike(facts: RunFacts) -> tuple[AlikeCases, ...]:
    """Return the cases that a bundle says are alike; raises IntegrityError if it says something else."""
    try:
        return tuple(map(alike_of, facts.alike))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{names.RUN}: alike: not pairs of cases ({error!r:.80})") from error


def _lost(facts: RunFacts) -> set[str]:
    """Return the ids of trainings that failed."""
    keys = map(StageKey.parse, facts.failures)
    return {key.training for key in keys if key is not None and key.training}


def _split(training: Training) -> dict[str, object]:
    return {
        "train": [case.id for case in training.train],
        "val": [case.id for case in training.val],
        "evaluation_sets": {one.name: [case.id for case in one.cases] for one in training.evaluation_sets},
        "sha256": split_sha256(training),
    }


def _origins(reported: Reported) -> dict[str, dict[str, object]]:
    """Return what each training comes from, as its first row says it."""
    origins: dict[str, dict[str, object]] = {}
    for row in from_table(reported.of_trainings):
        if row.training_id not in origins:
            found = asdict(row.provenance)
            origins[row.training_id] = {**found, "versions": json.loads(row.provenance.versions)}
    return origins


def _problems(facts: RunFacts, reported: Reported, *, preset: Preset) -> Iterator[str]:
    """Yield where the inputs of a bundle contradict each other."""
    study, trainings = reported.study, {training.id: training for training in reported.trainings}
    if facts.study_sha256 != study.sha256:
        yield f"{names.RUN}: study_sha256 is that of another study; found study/ with {study.sha256}"
    if facts.preset != json.loads(json.dumps(preset_record(preset))):
        yield f"{names.RUN}: preset {preset.name} has other fields than the study and this version of the project know"
    for training_id in facts.trainings:
        if training_id not in trainings:
            yield f"{names.RUN}: trainings: {training_id} is none of the study"
    yield from _problems_of_rows(from_table(reported.table), facts, trainings=trainings, preset=preset)


def _problems_of_rows(
    rows: Sequence[ResultRow], facts: RunFacts, *, trainings: Mapping[str, Training], preset: Preset
) -> Iterator[str]:
    known = {
        id_: {(one.name, case.dataset, case.name) for one in training.evaluation_sets for case in one.cases}
        for id_, training in trainings.items()
    }
    if facts.phantoms != any(row.provenance.phantoms for row in rows):
        yield f"{names.RUN}: phantoms: {facts.phantoms}; expected {not facts.phantoms}, as the results say"
    for row in rows:
        where = (
            f"results/{row.training_id}.parquet: {row.evaluation_set} {row.dataset}/{row.case} {row.score.structure}"
        )
        training = trainings.get(row.training_id)
        if training is None:
            yield f"{where}: {row.training_id} is no training of the study"
            continue
        found = row.provenance
        if (row.evaluation_set, row.dataset, row.case) not in known[row.training_id]:
            yield f"{where}: no case of that training"
        if found.split_sha256 != split_sha256(training):
            yield f"{where}: scored with another split than that of study/"
        if (found.preset, found.seed) != (preset.name, facts.seed):
            yield f"{where}: preset and seed are other ones than in {names.RUN}"


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(finite_or_null(content), indent=1) + "\n").encode()
