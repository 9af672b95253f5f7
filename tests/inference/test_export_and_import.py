"""Claims about models that are handed out and taken in: nnU-Net runs them, the bytes are the same, nothing escapes."""

import hashlib
import io
import json
import math
import pickle
import stat
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

import orchestrator
from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.cli.export import main as export
from orchestrator.cli.import_models import main as take_in
from orchestrator.errors import ConfigError, DataError
from orchestrator.inference.importing import import_models
from orchestrator.results.records import CaseScore, Provenance, ResultRow, ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet.model_folder import load_model_folder
from orchestrator.training.nnunet.planning import Plan

PATIENT = "meier-hans-1956"
TRAININGS = ("T1-lung-fold0", "T1-lung-fold1")


@pytest.fixture(params=[(), (0, 1)], ids=["no mirroring", "mirroring"])
def run(request, tmp_path):
    """The output location of a run of two finished trainings and one that is not."""
    storage = open_storage(tmp_path / "run")
    preset = {"name": "smoke", "tile_step_size": 0.75, "mirror_at_prediction": bool(request.param)}
    write_json(
        storage,
        run_paths.RUN,
        {"preset": preset, "seed": 3, "data": "/home/me", "trainings": [*TRAININGS, "T2-lung-fold0"]}
        | {"format": 1, "study_sha256": orchestrator.load_study().sha256},
    )
    for number, training in enumerate(TRAININGS):
        folder = tmp_path / f"made-{number}"
        plans = {**small_plans(), "continue_training": False}
        model = load_model_folder(write_model(folder, plans, labels=labels_of(3), folds=(str(number),)))
        storage.write_bytes(run_paths.plan(training), model.plan.to_bytes())
        digest = CheckpointStore(storage, training_id=training).save_final(
            {
                "network_weights": dict(model.weights[0]),
                "inference_allowed_mirroring_axes": request.param,
                "trainer_name": "nnUNetTrainer",
                "origin": {
                    "plan_sha256": model.plan.sha256,
                    "train_cases": [f"covid--{PATIENT}", "covid--b", "mosmed--c"],
                },
            }
        )
        write_json(storage, run_paths.training_record(training), {"checkpoint_sha256": digest})
        ResultsStore(storage).commit(training, [row(training, case, dsc=0.1 * case) for case in range(1, 8)])
    return tmp_path / "run"


def row(training, case, *, dsc):
    provenance = Provenance(
        preset="smoke",
        seed=3,
        versions='{"torch": "2"}',
        data_sha256="d" * 64,
        split_sha256="s" * 64,
        plan_sha256="p" * 64,
        checkpoint_sha256="c" * 64,
        phantoms=False,
        is_capped=True,
        train_elapsed_s=1800.0,
    )
    score = CaseScore(
        structure="left lung",
        status=ScoreStatus.SCORED,
        dsc=dsc,
        nsd=math.nan,
        tolerance_mm=1.0,
        spacing_mm=(1.0, 1.0, 1.0),
        num_reference_voxels=1,
        num_predicted_voxels=1,
    )
    return ResultRow(
        training_id=training,
        group="T1-lung",
        fold=0,
        configuration="3d_fullres",
        facets={"task": 1},
        evaluation_set="test",
        dataset="covid",
        case=f"{PATIENT}-{case}",
        score=score,
        provenance=provenance,
    )


def test_a_zip_is_installed_by_nnunet_and_predicts_the_labels_of_the_run(run, tmp_path, monkeypatch, capsys):
    assert export([str(run)]) == 0
    archive = run / "models" / "T1-lung-fold0.zip"
    index = json.loads((run / "models" / "index.json").read_text())["models"]
    assert list(index) == ["T1-lung-fold0.zip", "T1-lung-fold1.zip"]
    assert index[archive.name]["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert {entry["dataset"] for entry in index.values()} == {"Dataset700_T1_lung_fold0", "Dataset701_T1_lung_fold1"}

    monkeypatch.setattr("nnunetv2.model_sharing.model_import.nnUNet_results", str(tmp_path / "results"))
    from nnunetv2.model_sharing.model_import import install_model_from_zip_file

    install_model_from_zip_file(str(archive))
    installed = tmp_path / "results" / "Dataset700_T1_lung_fold0" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    images = write_image(tmp_path / "case", shape=(12, 26, 27))
    predictor = nnUNetPredictor(0.75, device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(installed), (0,))
    predictor.predict_from_files_sequential([[str(images[0])]], [str(tmp_path / "stock")])
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "stock.nii.gz")))
    assert len(np.unique(expected)) > 1
    for name, model, options in (
        ("run", run, {"training": "T1-lung-fold0"}),
        ("zip", archive, {}),
        ("installed", installed, {}),
    ):
        orchestrator.predict(model, images[0], output=tmp_path / name, device="cpu", **options)
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "case.nii.gz")))
        np.testing.assert_array_equal(found, expected)


def test_the_same_models_give_the_same_bytes_without_names_of_cases_and_places(run, tmp_path):
    assert export([str(run), "--output", str(tmp_path / "first")]) == 0
    orchestrator.export_models(run)
    (run / "models").rename(tmp_path / "second")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / output).iterdir()} for output in ("first", "second")
    )
    assert first == second
    for content in first.values():
        assert PATIENT.encode() not in content
        assert str(tmp_path).encode() not in content
        assert b"/home/me" not in content


def test_folds_whose_plans_differ_are_named_together_and_predict_together(run, tmp_path):
    assert export([str(run)]) == 0
    text = (run / "models" / "T1-lung.yaml").read_text()
    assert text.endswith("models:\n  - {model: T1-lung-fold0.zip}\n  - {model: T1-lung-fold1.zip}\n")
    images = write_image(tmp_path / "case", shape=(12, 26, 27))
    found = []
    zips = [run / "models" / f"{training}.zip" for training in TRAININGS]
    for name, models in (("file", run / "models" / "T1-lung.yaml"), ("list", zips)):
        (row,) = orchestrator.predict(models, images[0], output=tmp_path / name, device="cpu")
        assert row.status == "predicted", row.message
        found.append((tmp_path / name / "case.nii.gz").read_bytes())
    assert found[0] == found[1]
    # One may be named without a list.
    (one,) = orchestrator.export_models(run, tmp_path / "one", trainings=TRAININGS[0])
    assert one.training == TRAININGS[0]
    assert not list((tmp_path / "one").glob("*.yaml"))


def test_a_model_of_turned_images_says_so_and_turns_others(run, tmp_path):
    storage = open_storage(run)
    plan = Plan.from_bytes(storage.read_bytes(run_paths.plan(TRAININGS[0])))
    turned = plan.for_files(file_ending=".nii.gz", reader="SimpleITKIO", orientation="LPS")
    assert (plan.orientation, turned.orientation) == (None, "LPS")
    assert turned.handed_out() == plan
    storage.write_bytes(run_paths.plan(TRAININGS[0]), turned.to_bytes())
    assert export([str(run), "--training", TRAININGS[0], "--output", str(tmp_path / "out")]) == 0
    archive = tmp_path / "out" / f"{TRAININGS[0]}.zip"
    with zipfile.ZipFile(archive) as opened:
        texts = {
            name.rpartition("/")[2]: opened.read(name).decode() for name in opened.namelist() if ".pth" not in name
        }
    assert json.loads(texts["model.json"])["prediction"]["orientation"] == "LPS"
    assert "left for right" in texts["model_card.md"]
    (path,) = write_image(tmp_path / "case", shape=(12, 26, 27))
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    found = []
    for orientation in ("LPS", "RAS"):
        sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(tmp_path / f"{orientation}.nii.gz"))
        output = tmp_path / f"of-{orientation}"
        orchestrator.predict(archive, tmp_path / f"{orientation}.nii.gz", output=output, device="cpu")
        labels = sitk.ReadImage(str(output / f"{orientation}.nii.gz"))
        found.append(sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "LPS")))
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0])) > 1


def test_the_card_has_scores_with_their_spread_and_digests(run, tmp_path):
    assert export([str(run), "--training", "T1-lung-fold1", "--output", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["T1-lung-fold1.zip", "index.json"]
    with zipfile.ZipFile(tmp_path / "out" / "T1-lung-fold1.zip") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("model_card.md"))
        card = archive.read(name).decode()
    # 0.1 to 0.7: mean 0.4, sample SD 0.216.
    (line,) = (line for line in card.splitlines() if line.startswith("| test | left lung |"))
    assert line.startswith("| test | left lung | 7, 0.400, 0.216, 0.")
    assert line.endswith("| 1 | 0 |")
    assert "| training cases | covid: 2, mosmed: 1 |" in card
    # The study that comes along has one of them.
    assert "\n\n- covid: not known here\n- mosmed: CC BY-NC-ND\n\n" in card
    assert "| hours of training | 0.50 |" in card
    assert "c" * 64 in card
    assert "nnUNetv2_predict -d Dataset701_T1_lung_fold1 -c 3d_fullres -f 0 -i IMAGES -o LABELS -step_size 0.75" in card


def test_what_cannot_be_exported_is_one_line(run, tmp_path, capsys):
    assert export([str(run), "--training", "T2-lung-fold0"]) == 2
    assert (
        "no finished training T2-lung-fold0; expected some of T1-lung-fold0, T1-lung-fold1" in capsys.readouterr().err
    )
    assert export([str(tmp_path)]) == 2
    assert "no run.json; expected the output location of a run" in capsys.readouterr().err
    assert export([str(run), "--first-number", "999"]) == 2
    assert "expected room for 3 data sets" in capsys.readouterr().err


@pytest.fixture
def archive(tmp_path):
    """A zip of two folds as nnU-Net exports it, with files beside the model."""
    model = write_model(tmp_path / "made", small_plans(), labels=labels_of(3), folds=("0", "1"))
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(model.rglob("*")):
            if path.is_file():
                target.write(path, path.relative_to(tmp_path / "made"))
        target.writestr("Dataset501_Small/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/progress.png", b"")
    return tmp_path / "model.zip"


def test_a_zip_of_others_is_taken_in_and_predicts(archive, tmp_path, capsys):
    assert take_in([str(archive), "--output", str(tmp_path / "models")]) == 0
    folder = tmp_path / "models" / "Dataset501_Small" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert capsys.readouterr().out == f"{folder}: 3d_fullres, fold 0, 1\n"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        *["checkpoint_final.pth"] * 2,
        "dataset.json",
        "plans.json",
    ]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["Dataset501_Small"]
    images = write_image(tmp_path / "case", shape=(12, 26, 27))
    (found,) = orchestrator.predict(folder, images[0], output=tmp_path / "out", device="cpu")
    assert found.status == "predicted"
    with pytest.raises(ConfigError, match="there already"):
        import_models(archive, tmp_path / "models")


def rewritten(archive, target, *, change=lambda name, content: content, extra=()):
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as sink:
        for name in source.namelist():
            content = change(name, source.read(name))
            if content is not None:
                sink.writestr(name, content)
        for member, content in extra:
            sink.writestr(member, content)
    return target


def member(name, *, mode=None):
    info = zipfile.ZipInfo(name)
    if mode is not None:
        info.create_system, info.external_attr = 3, mode << 16
    return info


class _Program:
    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def _saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def only(ending, new):
    return lambda name, content: new(content) if name.endswith(ending) else content


def edited(**entries):
    return lambda content: json.dumps({**json.loads(content), **entries}).encode()


def _other_network(content):
    plans = json.loads(content)
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"
    return json.dumps(plans).encode()


def _other_activation(content):
    plans = json.loads(content)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["nonlin"] = "subprocess.Popen"
    return json.dumps(plans).encode()


def _huge(content):
    plans = json.loads(content)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [2**20, 2**20]
    return json.dumps(plans).encode()


HOSTILE = {
    "a name that leads up": ({"extra": [("../outside.txt", b"x")]}, "leads elsewhere"),
    "an absolute name": ({"extra": [("/tmp/outside.txt", b"x")]}, "leads elsewhere"),
    "a drive of Windows": ({"extra": [("C:\\outside.txt", b"x")]}, "leads elsewhere"),
    "a backslash": ({"extra": [("a\\..\\outside.txt", b"x")]}, "leads elsewhere"),
    "a line break in a name": ({"extra": [("a\nb", b"x")]}, "leads elsewhere"),
    "a hidden model": ({"extra": [(".hidden/plans.json", b"{}")]}, "leads elsewhere"),
    "a link": ({"extra": [(member("plans", mode=stat.S_IFLNK | 0o777), b"/etc/passwd")]}, "a link or device"),
    "a device": ({"extra": [(member("zero", mode=stat.S_IFCHR | 0o666), b"")]}, "a link or device"),
    "a name in other cases": (
        {"extra": [("Dataset501_Small/nnUNetTrainer__nnUNetPlans__3d_fullres/PLANS.json", b"{}")]},
        "a second file of that name",
    ),
    "too many files": ({"extra": [(f"file{number}", b"") for number in range(10_001)]}, "expected at most 10000"),
    "no plans": ({"change": lambda name, content: None if name.endswith("plans.json") else content}, "no plans.json"),
    "no data set": (
        {"change": lambda name, content: None if name.endswith("dataset.json") else content},
        "dataset.json: cannot be read",
    ),
    "no weights": (
        {"change": lambda name, content: None if name.endswith(".pth") else content},
        "no fold_*/checkpoint_final.pth",
    ),
    "plans that are no JSON": ({"change": only("plans.json", lambda _: b"{" * 9)}, "plans.json: cannot be read"),
    "plans without configurations": ({"change": only("plans.json", lambda _: b"{}")}, "not whole"),
    "plans of a deep tree": ({"change": only("plans.json", lambda _: b"[" * 10**6)}, "plans.json: cannot be read"),
    "a network that is a program": (
        {"change": only("plans.json", _other_network)},
        "expected PlainConvUNet or",
    ),
    "an activation that is one": ({"change": only("plans.json", _other_activation)}, "expected PlainConvUNet or"),
    "a network that fills the memory": ({"change": only("plans.json", _huge)}, "of these plans has"),
    "a reader that nnU-Net does not have": (
        {"change": only("plans.json", edited(image_reader_writer="os.system"))},
        "Unable to find reader writer class 'os.system'",
    ),
    "labels without a background": ({"change": only("dataset.json", edited(labels={"lung": 1}))}, "Background label"),
    "weights that run a program": (
        {"change": only(".pth", lambda _: _saved({"network_weights": _Program(exec, "print('executed')")}))},
        "wants to run exec",
    ),
    "a bare pickle": (
        {"change": only(".pth", lambda _: pickle.dumps(_Program(exec, "print('executed')")))},
        "cannot be read as weights",
    ),
    "a checkpoint that is none": ({"change": only(".pth", lambda _: _saved({"a": 1}))}, "without network_weights"),
    "torn weights": (
        {"change": only(".pth", lambda content: content[: len(content) // 2])},
        "cannot be read as weights",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_zip_that_is_not_what_it_should_be_is_refused_whole(kind, archive, tmp_path, capfd):
    changes, words = HOSTILE[kind]
    hostile = rewritten(archive, tmp_path / "hostile.zip", **changes)
    before = sorted(path for path in tmp_path.rglob("*") if "models" not in path.parts)
    assert take_in([str(hostile), "--output", str(tmp_path / "models")]) == 2
    told = capfd.readouterr()
    assert told.err.startswith(f"error: {hostile}: ")
    assert words in told.err
    assert told.err.count("\n") == 1
    assert "executed" not in told.out
    assert list((tmp_path / "models").iterdir()) == []
    assert sorted(path for path in tmp_path.rglob("*") if "models" not in path.parts) == before


def test_a_damaged_zip_is_refused(archive, tmp_path):
    content = archive.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 0xFF
    for damaged in (content[:1000], b"no zip", b"", bytes(changed)):
        (tmp_path / "damaged.zip").write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged\.zip"):
            import_models(tmp_path / "damaged.zip", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_file_that_says_to_be_small_gives_no_more_bytes_than_that(archive, tmp_path):
    """The directory of the zip is changed to say that the plans are 10 bytes."""
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        (info,) = (info for info in opened.infolist() if info.filename.endswith("plans.json"))
    place = content.rindex(info.filename.encode()) - 46
    content[place + 24 : place + 28] = (10).to_bytes(4, "little")
    (tmp_path / "bomb.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"bomb\.zip"):
        import_models(tmp_path / "bomb.zip", tmp_path / "models")
