"""Claims about fingerprints and plans, against nnU-Net's own extractor and planner."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.benchmark.presets import PRESETS
from orchestrator.errors import ConfigError, DataError, IntegrityError
from orchestrator.training.nnunet import planning
from orchestrator.training.nnunet.classes import find_planner
from orchestrator.training.nnunet.planning import CaseFingerprint, Plan, fingerprint_case, make_plan

LUNGS = LabelSet(
    name="lung",
    structures=(
        Structure(name="left_lung", label=1, tolerance_mm=1.0),
        Structure(name="right_lung", label=2, tolerance_mm=1.0),
    ),
)
PAPER, SMOKE = PRESETS["paper"], PRESETS["smoke"]


def write_case(folder, index, *, shape=(24, 40, 44), spacing_zyx=(5.0, 6.0, 6.0)):
    random = np.random.default_rng(index)
    image = random.integers(-1000, 400, shape).astype(np.int16)
    image[:2] = 0
    labels = np.zeros(shape, np.uint8)
    labels[5:18, 8:30, 6:18] = 1
    labels[5:17, 8:30, 25:38] = 2
    paths = []
    for name, array in ((f"case_{index}_0000.nii.gz", image), (f"case_{index}.nii.gz", labels)):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(spacing_zyx[::-1])
        path = folder / ("imagesTr" if "_0000" in name else "labelsTr") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(volume, str(path))
        paths.append(path)
    return tuple(paths)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset001_T1-lung-fold0"
    geometry = [((24, 40, 44), (5.0, 6.0, 6.0)), ((26, 40, 40), (4.0, 6.0, 6.5)), ((30, 48, 44), (5.0, 5.5, 5.5))]
    paths = [
        write_case(folder, index, shape=shape, spacing_zyx=spacing) for index, (shape, spacing) in enumerate(geometry)
    ]
    return folder, paths


@pytest.fixture(scope="module")
def fingerprints(cases):
    return [fingerprint_case([image], labels) for image, labels in cases[1]]


def plan_of(fingerprints, *, configuration="3d_fullres", donor=None, name="T1-lung-fold0", preset=SMOKE, **others):
    asked_for = {"configuration": configuration, "preset": preset, "donor": donor, "name": name, **others}
    return make_plan(fingerprints, label_set=LUNGS, **asked_for)


def test_a_fingerprint_is_that_of_nnunet(cases, fingerprints):
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    for (image, labels), found in zip(cases[1], fingerprints, strict=True):
        shape, spacing, samples, _, relative = DatasetFingerprintExtractor.analyze_case(
            [str(image)], str(labels), SimpleITKIO, 5000
        )
        assert found.shape_after_crop == tuple(shape)
        assert list(found.spacing_mm) == list(spacing)
        assert found.relative_size_after_cropping == relative
        voxels = found.foreground.astype(np.float32)[:, None, None]
        drawn, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
            np.ones_like(voxels), voxels, num_samples=5000
        )
        np.testing.assert_array_equal(drawn[0], samples[0])


def test_a_fingerprint_crops_zeros_and_keeps_the_foreground_as_int16(fingerprints):
    # Two slices of 24 are zero; the lungs have 13 x 22 x 12 and 12 x 22 x 13 voxels.
    assert fingerprints[0].shape_after_crop == (22, 40, 44)
    assert fingerprints[0].relative_size_after_cropping == pytest.approx(22 / 24)
    assert fingerprints[0].foreground.dtype == np.int16
    assert fingerprints[0].foreground.size == 13 * 22 * 12 + 12 * 22 * 13


def test_a_fingerprint_survives_storage(fingerprints):
    stored = fingerprints[1].to_bytes()
    read = CaseFingerprint.from_bytes(stored)
    assert read.to_bytes() == stored
    assert (read.shape_after_crop, read.spacing_mm) == (fingerprints[1].shape_after_crop, fingerprints[1].spacing_mm)
    np.testing.assert_array_equal(read.foreground, fingerprints[1].foreground)
    assert json.loads(stored)["format"] == 1
    # What a run of one channel has written before is read, and written, as it was.
    assert "num_channels" not in json.loads(stored)
    both = replace(fingerprints[1], foreground=np.vstack([fingerprints[1].foreground, fingerprints[1].foreground + 1]))
    again = CaseFingerprint.from_bytes(both.to_bytes())
    np.testing.assert_array_equal(again.foreground, both.foreground)


def test_fractions_of_hu_are_kept():
    made = CaseFingerprint(
        shape_after_crop=(2, 2, 2),
        spacing_mm=(1.0, 1.0, 1.0),
        relative_size_after_cropping=1.0,
        foreground=np.array([[0.1, -3.7]], np.float32),
    )
    read = CaseFingerprint.from_bytes(made.to_bytes())
    assert read.foreground.dtype == np.float32
    np.testing.assert_array_equal(read.foreground, made.foreground)


@pytest.mark.parametrize("torn", [b"", b"{}", b"[1]", b"\xff\x00"])
def test_torn_records_are_refused(torn):
    with pytest.raises(IntegrityError, match="fingerprint of a case that is not whole"):
        CaseFingerprint.from_bytes(torn)
    with pytest.raises(IntegrityError, match="plan of a training that is not whole"):
        Plan.from_bytes(torn)


def test_a_changed_intensity_is_refused(fingerprints):
    record = json.loads(fingerprints[0].to_bytes())
    record["foreground_crc32"] ^= 1
    with pytest.raises(IntegrityError, match="checksum"):
        CaseFingerprint.from_bytes(json.dumps(record).encode())


def test_unreadable_files_are_named(cases, tmp_path):
    image, labels = cases[1][0]
    torn = tmp_path / "torn.nii.gz"
    torn.write_bytes(image.read_bytes()[:500])
    with pytest.raises(DataError, match=r"torn\.nii\.gz"):
        fingerprint_case([torn], labels)
    with pytest.raises(DataError, match=r"case_1\.nii\.gz: shape \(26, 40, 40\); expected \(24, 40, 44\)"):
        fingerprint_case([image], cases[1][1][1])


PLANNERS = {
    "ExperimentPlanner": [2, 2, 2],
    "nnUNetPlannerResEncM": [1, 3, 4],
    "nnUNetPlannerResEncXL": [1, 3, 4],
    "nnUNetPlannerResEncL_noResampling": [1, 3, 4],
}
"""Planner to the blocks, or convolutions, of the first stages of its network."""


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_paper_preset_gives_nnunets_own_plans(planner, cases, fingerprints, monkeypatch, tmp_path):
    monkeypatch.setattr(planning, "NUM_INTENSITY_SAMPLES", 300_000)
    folder, paths = cases
    made = plan_of(fingerprints, preset=PAPER, planner=planner)

    (folder / "dataset.json").write_text(json.dumps(made.dataset_json))
    stock_fingerprint = extract_as_nnunet_does(paths, num_samples=300_000)
    preprocessed = tmp_path / folder.name
    preprocessed.mkdir()
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(stock_fingerprint))
    monkeypatch.setenv("nnUNet_raw", str(folder.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    stock_planner = find_planner(planner)(folder.name)
    stock_planner.plan_experiment()
    stock = json.loads((preprocessed / f"{stock_planner.plans_identifier}.json").read_text())
    assert made.plans == {**stock, "continue_training": False}
    assert made.plans["experiment_planner_used"] == planner
    network = made.plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert network["features_per_stage"][0] == 32
    assert network.get("n_blocks_per_stage", network.get("n_conv_per_stage"))[:3] == PLANNERS[planner]


def extract_as_nnunet_does(paths, *, num_samples):
    """Merge the extractor's results of the cases; its own `run` does the same after a pool of processes."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    results = [
        DatasetFingerprintExtractor.analyze_case([str(i)], str(s), SimpleITKIO, num_samples // len(paths))
        for i, s in paths
    ]
    values = np.concatenate([result[2][0] for result in results])
    low, median, high = np.percentile(values, np.array((0.5, 50.0, 99.5)))
    return {
        "spacings": [result[1] for result in results],
        "shapes_after_crop": [result[0] for result in results],
        "foreground_intensity_properties_per_channel": {
            "0": {
                "mean": float(np.mean(values)),
                "median": float(median),
                "std": float(np.std(values)),
                "min": float(np.min(values)),
                "max": float(np.max(values)),
                "percentile_99_5": float(high),
                "percentile_00_5": float(low),
            }
        },
        "median_relative_size_after_cropping": np.median([result[4] for result in results], 0),
    }


def test_intensity_samples_of_the_paper_preset_are_nnunets():
    assert planning.NUM_INTENSITY_SAMPLES == 10e7
    assert [preset.is_for_cpus for preset in (PAPER, PRESETS["quick"], SMOKE)] == [False, False, True]


def test_the_smoke_preset_limits_features_and_patch(fingerprints):
    configuration = plan_of(fingerprints, preset=replace(SMOKE, max_patch_voxels=16 * 32 * 32)).plans["configurations"][
        "3d_fullres"
    ]
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["features_per_stage"] == [min(8 * 2**stage, 32) for stage in range(kwargs["n_stages"])]
    assert 16 * 32 * 32 / 4 < np.prod(configuration["patch_size"]) <= 16 * 32 * 32
    strides = np.prod(kwargs["strides"], axis=0)
    assert [size % stride for size, stride in zip(configuration["patch_size"], strides, strict=True)] == [0, 0, 0]


def test_a_miniature_shrinks_residual_encoders_as_well(fingerprints):
    preset = replace(SMOKE, max_patch_voxels=16 * 32 * 32)
    made = plan_of(fingerprints, preset=preset, planner="nnUNetPlannerResEncL").configuration_manager
    network = made.network_arch_init_kwargs
    assert made.network_arch_class_name.endswith("ResidualEncoderUNet")
    assert network["features_per_stage"] == [min(8 * 2**stage, 32) for stage in range(network["n_stages"])]
    assert set(network["n_blocks_per_stage"]) == set(network["n_conv_per_stage_decoder"]) == {1}
    assert np.prod(made.patch_size) <= 16 * 32 * 32


MISSING_CONFIGURATIONS = {
    "images of a few patches": ((24, 40, 44), "3d_lowres", "planned 2d, 3d_fullres for these images and not 3d_lowres"),
    "single slices": ((1, 40, 44), "3d_fullres", "planned 2d for these images and not 3d_fullres"),
    "a cascade": ((300, 500, 500), "3d_cascade_fullres", "planned 2d, 3d_lowres, 3d_fullres for these images"),
}
"""Shape of every image, what is asked for, and what the message says is there."""


@pytest.mark.parametrize("case", MISSING_CONFIGURATIONS)
def test_a_configuration_that_nnunet_does_not_plan_is_named_with_those_that_it_does(case, fingerprints):
    shape, configuration, message = MISSING_CONFIGURATIONS[case]
    images = [replace(one, shape_after_crop=shape, spacing_mm=(1.0, 1.0, 1.0)) for one in fingerprints]
    with pytest.raises(DataError, match=message):
        plan_of(images, preset=PAPER, configuration=configuration)


def test_large_images_have_a_lowres_configuration(fingerprints):
    images = [replace(one, shape_after_crop=(300, 500, 500), spacing_mm=(1.0, 0.8, 0.8)) for one in fingerprints]
    made = plan_of(images, preset=PAPER, configuration="3d_lowres")
    assert min(made.configuration_manager.spacing) > 1.0


def test_the_limit_holds_in_two_dimensions(fingerprints):
    made = plan_of(fingerprints, preset=replace(SMOKE, max_patch_voxels=32 * 32), configuration="2d")
    configuration = made.plans["configurations"]["2d"]
    assert made.configuration == "2d"
    assert len(configuration["patch_size"]) == 2
    assert np.prod(configuration["patch_size"]) <= 32 * 32


@pytest.mark.long
@pytest.mark.parametrize(("configuration", "reference", "batch_size"), [("3d_fullres", 560e6, 2), ("2d", 85e6, 12)])
def test_a_plan_keeps_to_the_memory_of_its_preset_by_nnunets_own_estimate(
    fingerprints, configuration, reference, batch_size
):
    """nnU-Net's estimate counts values of feature maps; its reference is what takes 8 GiB with its own batch size."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    large = [replace(one, shape_after_crop=(300, 500, 500), spacing_mm=(1.0, 0.8, 0.8)) for one in fingerprints]
    estimated = {}
    for gib in (2.0, 8.0):
        plan = plan_of(large, preset=replace(PAPER, gpu_memory_gib=gib, name="x"), configuration=configuration)
        made = plan.plans["configurations"][configuration]
        architecture = made["architecture"]
        values = ExperimentPlanner.static_estimate_VRAM_usage(
            tuple(made["patch_size"]),
            1,
            3,
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
        )
        estimated[gib] = 8 * values / reference * made["batch_size"] / batch_size
        # The batch is rounded to whole patches.
        assert 0.5 * gib < estimated[gib] <= gib * (1 + 0.5 / made["batch_size"])
    assert estimated[2.0] < estimated[8.0]


def test_a_limit_without_room_is_refused(fingerprints):
    with pytest.raises(ConfigError, match="max_patch_voxels 1 "):
        plan_of(fingerprints, preset=replace(SMOKE, max_patch_voxels=1))


def test_a_donor_gives_patch_network_and_batch_size_but_not_intensities(fingerprints):
    donor = plan_of(fingerprints[:2], preset=replace(SMOKE, max_patch_voxels=8 * 16 * 16))
    alone = plan_of(fingerprints)
    made = plan_of(fingerprints, donor=donor)
    given, own, taken = (p.plans["configurations"]["3d_fullres"] for p in (donor, alone, made))
    assert given["patch_size"] != own["patch_size"]
    for key in ("patch_size", "architecture", "batch_size"):
        assert taken[key] == given[key]
    for key in ("spacing", "normalization_schemes", "median_image_size_in_voxels"):
        assert taken[key] == own[key]
    name = "foreground_intensity_properties_per_channel"
    assert made.plans[name] == alone.plans[name]
    assert made.plans[name] != donor.plans[name]
    with pytest.raises(ConfigError, match="expected 2d"):
        plan_of(fingerprints, donor=donor, configuration="2d")


def test_cases_without_any_label_are_refused(fingerprints):
    empty = replace(fingerprints[0], foreground=np.zeros((1, 0), np.float32))
    with pytest.raises(DataError, match="none of the 2 cases"):
        plan_of([empty, empty])
    assert plan_of([fingerprints[0], empty]).plans["configurations"]["3d_fullres"]


@pytest.mark.parametrize("dtype", ["|O", "<i8", "9" * 5000, ["<i2"], None])
def test_a_fingerprint_of_another_type_is_refused(fingerprints, dtype):
    record = json.loads(fingerprints[0].to_bytes())
    record["foreground_dtype"] = dtype
    with pytest.raises(IntegrityError, match="fingerprint of a case that is not whole"):
        CaseFingerprint.from_bytes(json.dumps(record).encode())


def test_a_plan_survives_storage_and_serves_nnunet(fingerprints):
    made = plan_of(fingerprints)
    read = Plan.from_bytes(made.to_bytes())
    assert read == made
    assert read.sha256 == made.sha256
    assert made.dataset_json["labels"] == {"background": 0, "left_lung": 1, "right_lung": 2}
    assert made.label_manager.foreground_labels == [1, 2]
    assert made.configuration_manager.patch_size == made.plans["configurations"]["3d_fullres"]["patch_size"]
    # nnU-Net's trainer pops this key out of the plans it is given.
    assert made.plans_manager.plans.pop("continue_training") is False
    assert made.plans["continue_training"] is False


@pytest.mark.parametrize(
    "named",
    [
        {"nonlin": "subprocess.Popen", "nonlin_kwargs": {"args": "touch ran", "shell": True}},
        {"conv_op": "os.system"},
        {"norm_op": ["os.system"]},
        {"anything": "builtins.exec", "_kw_requires_import": ["anything"]},
        {"network_class_name": "somewhere.Network"},
        {"_kw_requires_import": ["missing"]},
        {"_kw_requires_import": 3},
    ],
    ids=str,
)
def test_a_plan_that_names_a_program_as_its_network_is_refused(fingerprints, named):
    record = json.loads(plan_of(fingerprints).to_bytes())
    architecture = record["plans"]["configurations"]["3d_fullres"]["architecture"]
    for key, value in named.items():
        (architecture if key in architecture else architecture["arch_kwargs"])[key] = value
    heir = {**record["plans"]["configurations"], "3d_heir": {"inherits_from": "3d_fullres"}}
    record |= {"plans": {**record["plans"], "configurations": heir}, "configuration": "3d_heir"}
    with pytest.raises(IntegrityError, match="plan of a training"):
        Plan.from_bytes(json.dumps(record).encode())


def test_planning_prints_nothing_and_leaves_nnunet_as_it_was(fingerprints, capsys):
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as module
    from nnunetv2.paths import nnUNet_raw

    before = module.get_allowed_n_proc_DA
    plan_of(fingerprints)
    assert capsys.readouterr().out == ""
    assert module.nnUNet_raw is nnUNet_raw
    assert module.get_allowed_n_proc_DA is before
