"""Claims about models as others hand them out: zips of whole data sets, of a Mac, folds that are not finished."""

import json
import re
import shutil
import zipfile

import pytest
import torch

import orchestrator
from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.cli.import_models import main as take_in
from orchestrator.cli.predict import main
from orchestrator.errors import ConfigError, DataError
from orchestrator.inference.importing import import_models
from orchestrator.training.nnunet.model_folder import find_model_folder

MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
CASCADE = "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "made", small_plans(), labels=labels_of(3), mirror_axes=None)


def zipped(folder, target, *beside):
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
        for name in beside:
            archive.writestr(name, b"x")
    return target


def add_cascade(model):
    """A model beside, which refines the predictions of a third one."""
    cascade = shutil.copytree(model, model.with_name(CASCADE))
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    (cascade / "plans.json").write_text(json.dumps(plans))
    file = cascade / "fold_0" / "checkpoint_final.pth"
    state = torch.load(file, weights_only=False)
    state["init_args"]["configuration"] = "3d_cascade_fullres"
    torch.save(state, file)


@pytest.mark.parametrize(
    "name",
    [
        "__MACOSX/Dataset501_Small/._plans.json",
        "Dataset501_Small/.DS_Store",
        f"Dataset501_Small/ensembles/ensemble___{'nnUNetTrainer__nnUNetResEncUNetLPlans__3d_lowres___' * 3}0_1_2_3_4/"
        "postprocessing.pkl",
    ],
    ids=["of a Mac", "of its Finder", "of an ensemble"],
)
def test_what_lies_beside_a_model_in_its_zip_is_left_out_whatever_it_is_called(model, tmp_path, name):
    archive = zipped(tmp_path / "made", tmp_path / "model.zip", name)
    (found,) = import_models(archive, tmp_path / "models")
    assert found.left_out == (name,)
    assert sorted(path.name for path in (tmp_path / "models").rglob("*") if path.is_file()) == [
        "checkpoint_final.pth",
        "dataset.json",
        "plans.json",
    ]


@pytest.mark.parametrize("name", ["a/../b", "a//b", "./a", "/a", "a\\b", "a\x07", "b" * 256])
def test_names_that_lead_elsewhere_are_refused_though_they_are_left_out(model, tmp_path, name, capsys):
    archive = zipped(tmp_path / "made", tmp_path / "model.zip", name)
    assert take_in([str(archive), "--output", str(tmp_path / "models")]) == 2
    assert "leads elsewhere" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "models").iterdir())


def test_a_cascade_beside_other_models_is_left_out_and_said(model, tmp_path, capsys):
    add_cascade(model)
    archive = zipped(tmp_path / "made", tmp_path / "all.zip")
    assert take_in([str(archive), "--output", str(tmp_path / "models")]) == 0
    assert f"left out: {archive}: " in (told := " ".join(capsys.readouterr().err.split())).replace("note: ", "")
    assert "3d_cascade_fullres refines the predictions of 3d_lowres" in told
    assert [path.name for path in (tmp_path / "models" / "Dataset501_Small").iterdir()] == [MODEL]
    shutil.rmtree(model)
    alone = zipped(tmp_path / "made", tmp_path / "alone.zip")
    with pytest.raises(ConfigError, match="a cascade, which is not offered"):
        import_models(alone, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_a_zip_of_all_results_holds_models_of_data_sets(model, tmp_path):
    shutil.move(tmp_path / "made", tmp_path / "zipped" / "nnUNet_results")
    model = tmp_path / "zipped" / "nnUNet_results" / "Dataset501_Small" / MODEL
    archive = zipped(tmp_path / "zipped", tmp_path / "results.zip")
    (found,) = import_models(archive, tmp_path / "models")
    assert found.folder == tmp_path / "models" / "Dataset501_Small" / MODEL
    (image,) = write_image(tmp_path / "case", shape=(9, 20, 18))
    for named in (archive, tmp_path / "zipped"):
        (row,) = orchestrator.predict(named, image, output=tmp_path / "out", device="cpu")
        assert row.status in {"predicted", "kept"}
    # Of two data sets one is named.
    shutil.copytree(model.parent, model.parents[1] / "Dataset502_Other")
    archive = zipped(tmp_path / "zipped", tmp_path / "both.zip")
    with pytest.raises(ConfigError, match=rf"2 trained models; expected one of .*/Dataset502_Other/{MODEL}\. Add its"):
        orchestrator.predict(archive, image, output=tmp_path / "out")
    (row,) = orchestrator.predict(archive / "Dataset502_Other" / MODEL, image, output=tmp_path / "other", device="cpu")
    assert row.status == "predicted"
    assert len(import_models(archive, tmp_path / "both")) == 2
    shutil.copytree(model.parents[1], tmp_path / "zipped" / "copy")
    with pytest.raises(ConfigError, match=rf"two models Dataset501_Small/{MODEL}; expected one of a name"):
        import_models(zipped(tmp_path / "zipped", tmp_path / "twice.zip"), tmp_path / "twice")
    assert not list((tmp_path / "twice").iterdir())


@pytest.mark.parametrize(
    "name", ["Dataset501_Small (1)", "Dataset501_Small+CT", "nnUNet_results - Copy (2)/Dataset501_Small"]
)
def test_names_that_browsers_give_to_copies_are_names_of_models(model, tmp_path, name):
    shutil.copytree(model.parent, tmp_path / "zipped" / name)
    (found,) = import_models(zipped(tmp_path / "zipped", tmp_path / "model.zip"), tmp_path / "models")
    assert found.folder == tmp_path / "models" / name.rpartition("/")[2] / MODEL


def test_a_zip_of_windows_whose_paths_have_backslashes_is_taken_in(model, tmp_path):
    """As its PowerShell 5.1 writes it."""
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("Dataset501_Small\\", b"")
        archive.writestr("Dataset501_Small\\Thumbs.db", b"x")
        for path in sorted(model.rglob("*")):
            if path.is_file():
                archive.writestr(str(path.relative_to(tmp_path / "made")).replace("/", "\\"), path.read_bytes())
    (found,) = import_models(tmp_path / "model.zip", tmp_path / "models")
    assert found.folder == tmp_path / "models" / "Dataset501_Small" / MODEL
    assert found.left_out == ("Dataset501_Small/Thumbs.db",)


@pytest.mark.parametrize(
    "name", ["..\\outside.txt", "a\\..\\..\\outside.txt", "\\outside.txt", "C:\\fold_0\\plans.json"]
)
def test_backslashes_lead_nowhere_else(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr(name, b"x")
        archive.writestr("plans.json", b"{}")
    with pytest.raises(DataError, match="leads elsewhere"):
        import_models(tmp_path / "model.zip", tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_what_is_no_model_but_a_part_or_a_list_of_some_is_refused_with_what_to_give(model, tmp_path):
    for part in (model / "fold_0" / "checkpoint_final.pth", model / "plans.json"):
        with pytest.raises(
            ConfigError, match=rf"{part.name}: a file of a model; expected the folder that has plans\.json"
        ):
            orchestrator.predict(part, tmp_path, output=tmp_path / "out")
    (tmp_path / "inner.yaml").write_text(f"models:\n  - {{model: {model}}}\n")
    (tmp_path / "outer.yaml").write_text(f"models:\n  - {{model: {model}}}\n  - {{model: inner.yaml}}\n")
    with pytest.raises(ConfigError, match=r"outer\.yaml: names inner\.yaml, another file of models; .* do not nest"):
        orchestrator.predict(tmp_path / "outer.yaml", tmp_path, output=tmp_path / "out")


def test_programs_export_and_import_by_the_names_of_the_package(model, tmp_path):
    archive = zipped(tmp_path / "made", tmp_path / "model.zip")
    (found,) = orchestrator.import_models(str(archive), str(tmp_path / "models"))
    assert found.folder == tmp_path / "models" / "Dataset501_Small" / MODEL
    with pytest.raises(ConfigError, match=r"no run\.json; expected the output location of a run"):
        orchestrator.export_models(tmp_path)


def test_several_models_of_a_zip_are_listed_with_what_to_do(model, tmp_path):
    add_cascade(model)
    archive = zipped(tmp_path / "made", tmp_path / "all.zip")
    with pytest.raises(ConfigError, match=rf"2 trained models; expected one of .*{MODEL}\. Add its name to that"):
        orchestrator.predict(archive, tmp_path, output=tmp_path / "out")
    (image,) = write_image(tmp_path / "case", shape=(9, 20, 18))
    for name in (MODEL, f"Dataset501_Small/{MODEL}"):
        (row,) = orchestrator.predict(archive / name, image, output=tmp_path / "out", device="cpu")
        assert row.status in {"predicted", "kept"}
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["model"] == MODEL
    with pytest.raises(ConfigError, match=rf"no trained models Other; expected one of .*{MODEL}"):
        orchestrator.predict(archive / "Other", image, output=tmp_path / "out")


@pytest.mark.parametrize("place", [f"Dataset501_Small/{MODEL}/crossval_results_folds_0_1", "ensembles/ensemble_0_1"])
def test_what_nnunet_leaves_of_its_evaluations_is_no_model(model, tmp_path, place):
    (tmp_path / "made" / place).mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        shutil.copy(model / name, tmp_path / "made" / place / name)
    assert find_model_folder(model.parent) == find_model_folder(tmp_path / "made") == model
    archive = zipped(model.parent if place.startswith("Dataset") else tmp_path / "made", tmp_path / "model.zip")
    (found,) = import_models(archive, tmp_path / "models")
    assert found.folder.name == MODEL


def test_folds_that_are_not_finished_are_said_and_other_checkpoints_can_be_named(model, tmp_path, capsys):
    (image,) = write_image(tmp_path / "case", shape=(9, 20, 18))
    final, best = "checkpoint_final.pth", "checkpoint_best.pth"
    shutil.copytree(model / "fold_0", model / "fold_1")
    (model / "fold_1" / final).rename(model / "fold_1" / best)
    (row,) = orchestrator.predict(model, image, output=tmp_path / "out", device="cpu", note=(notes := []).append)
    assert row.status == "predicted"
    assert f"left out: fold 1, which has {best} and no {final}" in notes[0]
    (model / "fold_0" / final).rename(model / "fold_0" / best)
    arguments = [str(image), "--model", str(model), "--output", str(tmp_path / "best"), "--device", "cpu"]
    assert main(arguments) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"no fold_*/{final}; expected at least one. There is {best} of fold 0, 1: --checkpoint names it" in told
    assert main([*arguments, "--checkpoint", best]) == 0
    assert json.loads((tmp_path / "best" / "predict.json").read_text())["folds"] == ["0", "1"]
    archive = zipped(tmp_path / "made", tmp_path / "model.zip")
    (of_zip,) = orchestrator.predict(archive, image, output=tmp_path / "zip", device="cpu", checkpoint=best)
    assert of_zip.volumes_ml == row.volumes_ml
    with pytest.raises(ConfigError, match=r"checkpoint '\.\./x'; expected the name of a file such as"):
        orchestrator.predict(model, image, output=tmp_path / "none", checkpoint="../x")
    # Taken in, or named with others, it is the same.
    assert take_in([str(archive), "--output", str(tmp_path / "models")]) == 2
    assert take_in([str(archive), "--output", str(tmp_path / "models"), "--checkpoint", best]) == 0
    taken = tmp_path / "models" / "Dataset501_Small" / MODEL
    (tmp_path / "both.yaml").write_text(f"models:\n  - {{model: {taken}, checkpoint: {best}, folds: [0]}}\n")
    (of_file,) = orchestrator.predict(tmp_path / "both.yaml", image, output=tmp_path / "file", device="cpu")
    assert of_file.status == "predicted"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("normalization_schemes", ["MyNormalization"]),
        ("normalization_schemes", ["np"]),
        ("resampling_fn_data", "my_resampling"),
        ("resampling_fn_seg", "my_resampling"),
        ("resampling_fn_probabilities", "my_resampling"),
        ("resampling_fn_data", "resample_torch_fornnunet"),  # with the arguments of another function
    ],
)
def test_a_step_that_nnunet_does_not_have_is_refused_before_the_first_case(tmp_path, name, value):
    """The stock predictor fails with each case; the plans can tell it of all."""
    write_model(tmp_path / "made", small_plans(**{name: value}), labels=labels_of(3))
    archive = zipped(tmp_path / "made", tmp_path / "model.zip")
    with pytest.raises(DataError, match=re.escape(f"plans.json: {name} is {value}; expected what nnU-Net has")):
        import_models(archive, tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


TRAINER = """
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class Network(torch.nn.Sequential):
    def __init__(self, num_channels, num_classes):
        rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]  # as timm and MONAI do
        super().__init__(torch.nn.Dropout(rates[-1]), torch.nn.Conv3d(num_channels, num_classes, 3, padding=1))

    def forward(self, image):
        return super().forward(image) * (1.0 if CONDITION else 0.5)

class NAME(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(name, arguments, imports, num_channels, num_classes, enable_deep_supervision=True):
        return Network(num_channels, num_classes)
"""


@pytest.fixture
def of_own_network(tmp_path, monkeypatch):
    """Writes the model of a trainer with a network of its own; returns its folder."""

    def write(trainer, *, condition):
        folder = tmp_path / "trainers"
        folder.mkdir()
        (folder / f"{trainer.lower()}.py").write_text(TRAINER.replace("CONDITION", condition).replace("NAME", trainer))
        monkeypatch.setenv("nnUNet_extTrainer", str(folder))
        weights = torch.nn.Conv3d(1, 3, 3).state_dict()
        return write_model(
            tmp_path / "made",
            small_plans(),
            labels=labels_of(3),
            trainer_name=trainer,
            network_weights={f"1.{name}": tensor for name, tensor in weights.items()},
        )

    return write


def test_the_memory_of_a_network_that_reads_numbers_while_it_is_built_is_said(of_own_network, tmp_path):
    model = of_own_network("LinearRates", condition="True")
    (image,) = write_image(tmp_path / "case", shape=(9, 20, 18))
    options = {"device": "cpu", "max_memory_gib": 100, "note": (notes := []).append}
    (row,) = orchestrator.predict(model, image, output=tmp_path / "out", **options)
    assert row.status == "predicted"
    assert "1 of 1 cases to predict; at most " in notes[-1]


def test_the_memory_of_a_network_that_reads_numbers_of_an_image_is_not_known_and_never_limited(
    of_own_network, tmp_path
):
    model = of_own_network("LooksAtIt", condition="image.abs().max().item() > 0")
    (tmp_path / "images").mkdir()
    for number in range(2):
        write_image(tmp_path / "images" / f"case_{number}", shape=(9, 20, 18))
    with pytest.raises(ConfigError, match=r"asks for numbers of the image, .*; expected no limit of the memory"):
        orchestrator.predict(model, tmp_path / "images", output=tmp_path / "out", device="cpu", max_memory_gib=100)
    notes = []
    rows = orchestrator.predict(model, tmp_path / "images", output=tmp_path / "out", device="cpu", note=notes.append)
    assert [row.status for row in rows] == ["predicted", "predicted"]
    assert notes == ["2 of 2 cases to predict; the memory that they take is not known before"]
