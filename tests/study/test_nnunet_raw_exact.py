"""Whatever file a raw data set is in, plans and preprocessed cases are those of nnU-Net on the same folder."""

import json
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import imageio.v3
import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities import utils
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from raw_datasets import NAMES, dataset_of, write_dataset

from orchestrator.benchmark.definition import Case, LabelSet, Structure
from orchestrator.benchmark.presets import PRESETS
from orchestrator.sources.case_files import write_volume
from orchestrator.sources.convert import convert_image, convert_labels
from orchestrator.training.nnunet import planning
from orchestrator.training.nnunet.planning import fingerprint_case, make_plan
from orchestrator.training.nnunet.preprocessing import preprocess_case

THINGS = LabelSet(
    name="things",
    structures=(
        Structure(name="small", label=1, tolerance_mm=1.0),
        Structure(name="large", label=2, tolerance_mm=1.0),
    ),
)
NUM_SAMPLES = 3000
FLAT = {"shape": (1, 40, 36)}
KINDS = {
    "nii.gz in another order of axes": {"orientation": "PIR"},
    "turned by nnU-Net's reader": {"orientation": "PIR", "overwrite_image_reader_writer": "NibabelIOWithReorient"},
    "mha": {"ending": ".mha"},
    "nrrd": {"ending": ".nrrd", "orientation": "SAR"},
    "nii of two axes": {**FLAT, "spacing_xyz": (0.5, 0.5)},
    "one slice": {**FLAT, "spacing_xyz": (0.5, 0.75, 4.0)},
    "tiff": {"ending": ".tiff"},
}


def stock(data: Path, work: Path, monkeypatch) -> tuple[dict, Path]:
    """Return nnU-Net's own plans of the data set."""
    monkeypatch.setenv("nnUNet_raw", str(data))
    monkeypatch.setenv("nnUNet_preprocessed", str(work))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    # Its pools of processes would import everything again, twice a test, and fork what all other tests have left.
    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr(fingerprint_extractor, "multiprocessing", threads)
    monkeypatch.setattr(utils, "Pool", ThreadPool)
    extractor = fingerprint_extractor.DatasetFingerprintExtractor("Dataset137_Things", 1)
    extractor.num_foreground_voxels_for_intensitystats = NUM_SAMPLES
    extractor.run(overwrite_existing=True)
    (work / "Dataset137_Things").mkdir(exist_ok=True)
    ExperimentPlanner("Dataset137_Things").plan_experiment()
    return json.loads((work / "Dataset137_Things" / "nnUNetPlans.json").read_text())


def ours(data: Path, work: Path, *, channels: tuple[str, ...], configuration: str):
    """Return our plan, and the files of each case that it was made of."""
    dataset = dataset_of(channels=channels)
    files = {}
    for name in sorted(NAMES):
        case = Case(dataset="things", name=name)
        image = convert_image(case, dataset=dataset, label_sets=["things"], downloads=data)
        labels = convert_labels(case, dataset=dataset, label_set="things", image=image.image, downloads=data)
        paths = [work / f"{name}-{number}.nii.gz" for number in range(len(channels))]
        for path, volume in zip(paths, (image.image, *image.further), strict=True):
            write_volume(volume, path)
        write_volume(labels.labels, work / f"{name}.nii.gz")
        files[name] = (paths, work / f"{name}.nii.gz")
    plan = make_plan(
        [fingerprint_case(*found) for found in files.values()],
        label_set=THINGS,
        configuration=configuration,
        preset=PRESETS["paper"],
        donor=None,
        name="things-fold0",
        channels=channels,
    )
    return plan, files


def assert_same(data: Path, tmp_path: Path, monkeypatch, *, channels, ending, configuration, num_files):
    monkeypatch.setattr(planning, "NUM_INTENSITY_SAMPLES", NUM_SAMPLES)
    work, own = tmp_path / "work", tmp_path / "own"
    work.mkdir()
    own.mkdir()
    expected = stock(data, work, monkeypatch)
    plan, files = ours(data, own, channels=channels, configuration=configuration)
    for key in ("dataset_name", "image_reader_writer"):
        expected.pop(key)
    found = {key: value for key, value in plan.plans.items() if key in expected}
    assert found == expected
    stock_plans = PlansManager({**expected, "dataset_name": "Dataset137_Things", "image_reader_writer": "SimpleITKIO"})
    described = json.loads((data / "Dataset137_Things" / "dataset.json").read_text())
    reader = {".nii.gz": "SimpleITKIO", ".png": "NaturalImage2DIO", ".tiff": "Tiff3DIO"}.get(ending, "SimpleITKIO")
    stock_plans.plans["image_reader_writer"] = described.get("overwrite_image_reader_writer", reader)
    root = data / "Dataset137_Things"
    for name, (images, labels) in files.items():
        raw = [str(root / "imagesTr" / f"{name}_{number:04}{ending}") for number in range(num_files)]
        data_of_nnunet, seg, _ = DefaultPreprocessor(verbose=False).run_case(
            raw,
            str(root / "labelsTr" / f"{name}{ending}"),
            stock_plans,
            stock_plans.get_configuration(configuration),
            described,
        )
        case = preprocess_case(images, labels, plan)
        np.testing.assert_array_equal(case.data, data_of_nnunet)
        np.testing.assert_array_equal(case.seg, seg)


@pytest.mark.parametrize("kind", KINDS)
def test_plans_and_preprocessed_cases_are_those_of_nnunet(kind, tmp_path, monkeypatch):
    data = tmp_path / "raw"
    options = KINDS[kind]
    write_dataset(data, **options)
    assert_same(
        data,
        tmp_path,
        monkeypatch,
        channels=("CT", "T2"),
        ending=options.get("ending", ".nii.gz"),
        configuration="2d" if "shape" in options else "3d_fullres",
        num_files=2,
    )


def test_a_picture_is_three_channels(tmp_path, monkeypatch):
    data = tmp_path / "raw"
    root = write_dataset(data, channels=("CT",), ending=".png", shape=(40, 36))
    for path in (root / "imagesTr").iterdir():
        grey = imageio.v3.imread(path)
        imageio.v3.imwrite(path, np.dstack([grey, 255 - grey, grey // 2]))
    described = json.loads((root / "dataset.json").read_text())
    described["channel_names"] = {"0": "R", "1": "G", "2": "B"}
    (root / "dataset.json").write_text(json.dumps(described))
    assert_same(data, tmp_path, monkeypatch, channels=("R", "G", "B"), ending=".png", configuration="2d", num_files=1)
