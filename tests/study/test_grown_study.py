"""Claims about a study that changes while a run of it is there: what may be added, and what is refused by name."""

import json
import shutil
from dataclasses import MISSING, field, fields, make_dataclass, replace
from pathlib import Path

import pytest
from test_results import row

from orchestrator.api.runs import make_request, request_of_run
from orchestrator.benchmark.definition import Dataset, LabelSet, Model, Structure, Training
from orchestrator.benchmark.loading import DEFAULT_STUDY, load_study
from orchestrator.benchmark.trainings.definitions import DEFINITIONS_FORMAT, definitions
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.driver.claim import claim_output
from orchestrator.driver.request import RunRequest, definitions_of, identity_of
from orchestrator.driver.run import run
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.progress import NoListener
from orchestrator.results.store import ResultsStore
from orchestrator.results.trials import Fidelity
from orchestrator.shipped import shipped_file
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import write_json
from orchestrator.sweeps.apply import apply_best
from orchestrator.sweeps.request import sweep_sha256
from orchestrator.sweeps.written import SweepRecord

UNET, RESENC = "tumour-fold0", "tumour-resenc-fold0"


@pytest.fixture
def path(tmp_path) -> Path:
    folder = shutil.copytree(shipped_file("splits", "brain_mri"), tmp_path / "brain")
    return folder / "study.yaml"


def request_for(path: Path, *only: str) -> RunRequest:
    study = load_study(path)
    preset = study.preset("smoke")
    return RunRequest(
        study=study,
        trainings=study.trainings(only=only or (UNET,), preset=preset),
        preset=preset,
        seed=0,
        data=None,
        output=str(path.parent.parent / "run"),
        cluster=LocalCluster(),
    )


def claim(request: RunRequest) -> list[str]:
    """Claim the output as a run does; what it says."""
    said: list[str] = []
    claim_output(
        open_storage(request.output),
        identity=identity_of(request),
        trainings=[training.id for training in request.trainings],
        definitions=definitions_of(request),
        note=said.append,
    )
    return said


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_a_run_goes_on_when_its_study_gets_the_best_trial_of_a_search_as_a_model(path):
    before = request_for(path)
    assert claim(before) == []
    record = SweepRecord(training=UNET, num_trials=3, num_scored=3, best=(("initial_learning_rate", 0.003),))
    apply_best(path, before.trainings[0], record, name="tuned", load=load_study)
    after = request_for(path, "model=tuned")
    assert after.study.sha256 != before.study.sha256
    storage = open_storage(after.output)
    assert request_of_run(storage, study=path).study.sha256 == after.study.sha256
    assert claim(after) == [
        "the study has changed since this run began, but no training that it was asked for; new in it: "
        "tumour-tuned-fold0, tumour-tuned-fold1, tumour-tuned-fold2"
    ]
    assert claim(after) == []
    run = json.loads(storage.read_bytes(run_paths.RUN))
    assert run["study_sha256"] == after.study.sha256
    assert run["trainings"] == [UNET, *(one.id for one in after.trainings)]
    kept = definitions_of(before)
    assert {name: run["definitions"][name] for name in kept} == kept
    # The search itself is of its training, and goes on as well.
    looks = (Fidelity(preset="smoke", folds=1),)
    digests = [sweep_sha256(one, fidelities=looks, milestones=()) for one in (request_for(path), before)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# Brain tumours", "# Tumours of the brain"),
        ("title: Brain tumours", "title: Tumours"),
        ("title: Brain phantoms", "title: Phantoms"),
        ("nnUNetPlannerResEncM", "nnUNetPlannerResEncL"),
        ("unet: {}", "unet: {note: the plain one}"),
    ],
)
def test_what_changes_no_training_that_was_asked_for_is_no_other_run(path, before, after):
    claim(request_for(path))
    change(path, before, after)
    assert len(claim(request_for(path))) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("unet: {}", "unet: {preset: {batch_size: 3}}"),
        ("region: [3], tolerance_mm: 1.0", "region: [3], tolerance_mm: 1.5"),
        ("channels: [T1, FLAIR]", "channels: [T1, CT]"),
        ("folds: {number: 3,", "folds: {number: 4,"),
        ("  tumour:\n    train", "  others:\n    train"),
    ],
)
def test_a_training_that_was_asked_for_and_is_another_now_is_refused_by_name(path, before, after):
    first = request_for(path)
    claim(first)
    written = open_storage(first.output).read_bytes(run_paths.RUN)
    change(path, before, after)
    with pytest.raises(ConfigError, match=f"as it was before {UNET} changed; expected the same trainings"):
        claim(request_for(path, "*-fold0"))
    with pytest.raises(ConfigError, match="the run of another study"):
        request_of_run(open_storage(first.output), study=path)
    assert open_storage(first.output).read_bytes(run_paths.RUN) == written


def begin(request: RunRequest) -> list[str]:
    """Begin a run as a command does, up to its first stage: it finds nothing wrong, and asks for a cluster.

    Returns what it says.
    """
    said: list[str] = []
    listener = NoListener()
    listener.note = said.append

    def connect(*_) -> None:
        raise ClusterError("there is none")

    with pytest.raises(ClusterError, match="there is none"):
        run(request, connect=connect, listener=listener)
    return said


def test_a_training_that_is_fitted_for_an_ensemble_alone_stays_what_it_was_too(path):
    with path.open("a", encoding="utf-8") as file:
        file.write("ensembles: {both: {members: [model=unet, model=resenc]}}\n")
    both = request_for(path, "tumour-both-fold0")
    assert {one.id for one in both.trainings[0].members} == {UNET, RESENC}
    begin(both)
    change(path, "nnUNetPlannerResEncM", "nnUNetPlannerResEncL")
    for wanted in (RESENC, UNET, "tumour-both-fold0"):
        with pytest.raises(ConfigError, match=f"as it was before {RESENC} changed; expected the same trainings"):
            run(request_for(path, wanted), connect=None, listener=NoListener())
    with pytest.raises(ConfigError, match="the run of another study"):
        request_of_run(open_storage(both.output), study=path)
    change(path, "nnUNetPlannerResEncL", "nnUNetPlannerResEncM")
    # The ensemble may go, and yet nothing is forgotten of what was fitted.
    change(path, "{both: {members: [model=unet, model=resenc]}}", "{}")
    begin(request_for(path, UNET))
    change(path, "nnUNetPlannerResEncM", "nnUNetPlannerResEncL")
    with pytest.raises(ConfigError, match=f"as it was before {RESENC} changed"):
        run(request_for(path, UNET), connect=None, listener=NoListener())


def test_it_is_said_which_scores_are_of_before_a_study_asked_for_more(path):
    request = request_for(path)
    begin(request)
    storage = open_storage(request.output)
    for one in request_for(path, "*-fold[01]").trainings:
        scored = replace(row(0.5, 0.5, fold=one.fold), training_id=one.id, group=one.group, facets=one.facets)
        assert ResultsStore(storage).commit(one.id, [scored])
    trained = {"checkpoint_sha256": "of the model"}
    write_json(storage, run_paths.training_record(UNET), trained)
    failures = {case.id: "DataError: cut short" for case in request.trainings[0].val}
    write_json(storage, run_paths.prediction_record(UNET), {**trained, "failures": failures})
    with path.open("a", encoding="utf-8") as file:
        file.write("metrics: [hd95-voxel]\n")
    said = begin(request_for(path, UNET, RESENC))
    assert said[1:] == [
        "tumour-fold0: scored again, since the study asks for other metrics or facets by now",
        "tumour-fold1, tumour-resenc-fold0, tumour-resenc-fold1: scored before the study asked for the metrics, or "
        "facets, that it has now. A call for them scores them again where their predictions are there",
    ]


def test_a_run_that_does_not_say_what_it_has_fitted_goes_on_as_before(path):
    begin(request_for(path))
    storage = open_storage(request_for(path).output)
    record = json.loads(storage.read_bytes(run_paths.RUN))
    assert record.pop("fitted") == [UNET]
    storage.write_bytes(run_paths.RUN, json.dumps(record).encode())
    change(path, "nnUNetPlannerResEncM", "nnUNetPlannerResEncL")
    begin(request_for(path))
    assert json.loads(storage.read_bytes(run_paths.RUN))["fitted"] == [UNET]
    change(path, "unet: {}", "unet: {preset: {batch_size: 3}}")
    with pytest.raises(ConfigError, match=f"as it was before {UNET} changed"):
        claim(request_for(path))


def rewrite(storage: Storage, **fields: object) -> None:
    """Change the record of a run as another version would have written it; without those that are None."""
    record = json.loads(storage.read_bytes(run_paths.RUN)) | fields
    kept = {name: value for name, value in record.items() if value is not None}
    storage.write_bytes(run_paths.RUN, json.dumps(kept).encode())


@pytest.mark.parametrize(
    "fields", [{"definitions": None}, {"definitions_format": None}, {"definitions_format": DEFINITIONS_FORMAT + 1}]
)
def test_what_another_version_says_of_the_trainings_of_a_run_is_compared_with_nothing(path, fields):
    request = request_for(path)
    claim(request)
    storage = open_storage(request.output)
    # Every digest is another one in another format.
    rewrite(storage, **({"definitions": {UNET: "0" * 16}} | fields))
    change(path, "title: Brain tumours", "title: Tumours")
    with pytest.raises(ConfigError, match="cannot be compared with what they are now; expected the study as it was"):
        claim(request_for(path))
    # One call with the study as it was says anew what the trainings are, and then it may change.
    change(path, "title: Tumours", "title: Brain tumours")
    assert claim(request_for(path)) == []
    change(path, "title: Brain tumours", "title: Tumours")
    assert len(claim(request_for(path))) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"study_sha256": None}, "the record of a run without study_sha256; expected format"),
        ({"shards": {"a": {"b": 1}}, "bits": 8}, "a run with bits, shards, which this version does not know; expected"),
    ],
)
def test_the_record_of_a_run_of_another_version_is_said_to_be_that(path, fields, said):
    request = request_for(path)
    claim(request)
    storage = open_storage(request.output)
    rewrite(storage, **fields)
    written = storage.read_bytes(run_paths.RUN)
    with pytest.raises(ConfigError, match=f"{said}.*Another version of this project has written them and can go on"):
        claim(request)
    assert storage.read_bytes(run_paths.RUN) == written


def test_what_reads_a_run_tells_the_record_of_another_version_from_no_run(path):
    request = request_for(path)
    storage = open_storage(request.output)
    with pytest.raises(ConfigError, match="no run has been started there"):
        request_of_run(storage, study=path)
    claim(request)
    rewrite(storage, study_sha256=None)
    with pytest.raises(
        ConfigError, match=r"does not say preset, study_sha256, seed .* Another version of this project"
    ):
        request_of_run(storage, study=path)


STUDY = """
title: Livers
label_sets: {liver: {liver: {label: 1, tolerance_mm: 2}, tumour: {label: 2, region: [2], tolerance_mm: 1.5}}}
datasets: {clinic: {source: msd, label_sets: [liver]}}
models:
  plain: {note: the first}
  other: {configuration: 2d, suffix: -other, preset: {batch_size: 3, mirror_axes: [0, 1]}, seeds: [1, 2]}
trainings:
  liver: {train: [clinic/own], test: {outer: clinic/other}}
"""


def test_a_training_that_has_not_changed_has_the_same_digest_in_every_version(tmp_path):
    # Where these become others, runs of before cannot tell any more what their trainings were, and refuse a study that
    # has changed in any way. Give a new field a default, and it is left out; or else raise DEFINITIONS_FORMAT.
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "folds.yaml").write_text("clinic: {own: [a, b, c, d], other: [e, f, g, h]}", encoding="utf-8")
    study = load_study(tmp_path / "study.yaml")
    found = definitions(study, preset=study.preset("quick"), phantoms=False)
    assert DEFINITIONS_FORMAT == 2
    assert found == {
        "liver-fold0": "730d8f9014bf2020",
        "liver-other-seed1-fold0": "22d5253bbdf9bcea",
        "liver-other-seed2-fold0": "3d23653d73e3abef",
    }


def test_a_field_that_a_later_version_adds_changes_no_digest_where_it_has_its_default(path):
    study = load_study(path)
    preset = study.preset("smoke")
    own = [("further", str, field(default=""))]
    later = make_dataclass("Later", own, bases=(Model,), frozen=True, kw_only=True, slots=True)

    def with_models(**said: str) -> dict[str, str]:
        models = [
            later(**{one.name: getattr(model, one.name) for one in fields(model)}, **said) for model in study.models
        ]
        return definitions(replace(study, models=tuple(models)), preset=preset, phantoms=False)

    before = definitions(study, preset=preset, phantoms=False)
    assert with_models() == before
    assert with_models(further="x").keys() == before.keys()
    assert not with_models(further="x").items() & before.items()


UNSAID = {
    Model: {
        "configuration": "3d_fullres",
        "planner": "ExperimentPlanner",
        "trainer": "nnUNetTrainer",
        "suffix": "",
        "changes": (),
        "seeds": (),
        "note": "",
    },
    Training: {"seed": None, "members": (), "choose": None, "chosen_by": "", "given_id": ""},
    Dataset: {"label_values": {}, "file_ending": ".nii.gz", "reader": "SimpleITKIO"},
    LabelSet: {"ignored_label": None},
    Structure: {"region": ()},
}
"""Values that the digests leave out."""


@pytest.mark.parametrize("kind", UNSAID, ids=lambda kind: kind.__name__)
def test_what_a_digest_leaves_out_has_the_same_meaning_in_every_version(kind):
    # With another default a training changes though its digest stays: raise DEFINITIONS_FORMAT as well.
    found = {one.name: one.default if one.default_factory is MISSING else one.default_factory() for one in fields(kind)}
    assert {name: found.get(name, MISSING) for name in UNSAID[kind]} == UNSAID[kind]


def test_another_seed_is_refused_whatever_the_study_has_become(path):
    claim(request_for(path))
    change(path, "title: Brain tumours", "title: Tumours")
    with pytest.raises(ConfigError, match=r"another seed \(0 there, 3 asked for\)"):
        claim(replace(request_for(path), seed=3))


def test_a_training_follows_from_that_whose_plans_it_takes_over_and_generated_cases_from_each_other():
    study = load_study()
    preset = study.preset("smoke")
    found = definitions(study, preset=preset, phantoms=False)
    trainings = {one.id: one for one in study.all_trainings(preset=preset)}
    taker = next(one for one in trainings.values() if one.plans_from)
    models = tuple(replace(one, trainer="nnUNetTrainerNoMirroring") for one in study.models if one == taker.model)
    others = tuple(one for one in study.models if one != taker.model)
    changed = definitions(replace(study, models=models + others), preset=preset, phantoms=False)
    assert changed[taker.id] != found[taker.id]
    assert changed[taker.plans_from] != found[taker.plans_from]
    same = [name for name, one in trainings.items() if one.model != taker.model]
    assert same
    assert all(changed[name] == found[name] for name in same)
    generated = definitions(study, preset=preset, phantoms=True)
    assert all(generated[name] != found[name] for name in found)
    smaller = replace(study, groups=study.groups[:3])
    assert definitions(smaller, preset=preset, phantoms=True)["T1-lung-fold0"] != generated["T1-lung-fold0"]
    assert definitions(smaller, preset=preset, phantoms=False)["T1-lung-fold0"] == found["T1-lung-fold0"]


def test_a_run_whose_preset_the_study_does_not_have_is_said_to_be_of_another_one(path):
    with path.open("a", encoding="utf-8") as file:
        file.write("presets: {tiny: {like: smoke, num_epochs: 1}}\n")
    study = load_study(path)
    request = replace(request_for(path), preset=study.preset("tiny"))
    assert claim(request) == []
    storage = open_storage(request.output)
    assert request_of_run(storage, study=path).preset.name == "tiny"
    with pytest.raises(ConfigError, match=r"run is of preset tiny, which .* does not have; expected --study with its"):
        request_of_run(storage, study=DEFAULT_STUDY)


def test_a_run_of_another_study_is_said_to_be_that_and_neither_lies_where_the_other_does(path):
    own = request_for(path, "*-fold0", "*-fold1")
    claim(own)
    study = load_study()
    preset = study.preset("smoke")
    trainings = study.trainings(only=("T1-lung-fold0",), preset=preset)
    named = r"another study \(its trainings: tumour-fold0, tumour-fold1, tumour-resenc-fold0, .*fold1\); expected"
    with pytest.raises(ConfigError, match=named):
        claim(replace(own, study=study, trainings=trainings))
    outputs = [make_request(one, preset="smoke").output for one in (study, own.study)]
    assert outputs == [str(Path("runs", name).absolute()) for name in ("smoke", "brain-smoke")]


def test_a_run_knows_where_its_study_is_as_its_latest_call_named_it(path, tmp_path):
    claim(request_for(path))
    storage = open_storage(request_for(path).output)
    assert request_of_run(storage, study=None).study.path == path
    moved = path.parent.rename(tmp_path / "elsewhere") / path.name
    with pytest.raises(ConfigError, match=r"the run of another study .*; expected --study with its own"):
        request_of_run(storage, study=None)
    claim(request_for(moved))
    assert request_of_run(storage, study=None).study.path == moved
