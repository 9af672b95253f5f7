"""Claims about what is said of the memory of a prediction before it starts."""

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import memory_of_reading
import nibabel
import numpy as np
import pytest
import torch
from memory_of_reading import begin_measuring, memory_bytes

from bench.instruments.stock_models import labels_of, small_plans, write_model
from orchestrator.training.nnunet import stock_export
from orchestrator.training.nnunet.ensembles.averaged_prediction import Member, _averaged
from orchestrator.training.nnunet.model_folder import load_model_folder
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.prediction import ready_predictor
from orchestrator.training.nnunet.prediction_memory import forward_bytes, read_header, reading_bytes
from orchestrator.training.nnunet.prepared_image import PreparedImage, read_images
from orchestrator.training.nnunet.window_sweep import plan_sweep

SHAPE = (160, 150, 140)
LITTLE = 4 * 2**20
"""Of blocks of a file, and of Python's own objects."""


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (0.5, -100.0)], ids=["as it is", "scaled"])
@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient"])
def test_reading_in_double_precision_takes_what_was_said_and_hardly_less(reader, scaling, num_channels, tmp_path):
    """Numbers of the file, float64 of each channel, float32 of all, and copies on the way; all of it numpy's."""
    files = []
    for channel in range(num_channels):
        image = nibabel.Nifti1Image(np.full(SHAPE, channel, np.int16), np.diag([-1.0, 1.0, 2.0, 1.0]))
        image.header.set_slope_inter(*scaling)
        files.append(tmp_path / f"case_{channel:04d}.nii.gz")
        nibabel.save(image, files[-1])
    names = ["CT", "PET", "MR"][:num_channels]
    plans = small_plans(reader=reader, channels=names)
    dataset = {"channel_names": dict(enumerate(names)), "labels": labels_of(3), "file_ending": ".nii.gz"}
    plan = Plan(plans=plans, dataset_json=dataset, configuration="3d_fullres")
    header = read_header(files[0])
    assert header.is_scaled == (scaling != (1.0, 0.0))
    read_images(files, plan)  # imports
    tracemalloc.start()
    read_images(files, plan)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    beside = reading_bytes(replace(header, shape=(0, 0, 0)), plan)  # of kernels
    assert most <= reading_bytes(header, plan) - beside + 2**20
    assert reading_bytes(header, plan) - beside <= 1.15 * most


@pytest.fixture(scope="module")
def of_kinds():
    """Bytes that were said and taken, by kind of an image."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells what a process had at most since a moment")
    # Memory that is given back leaves the process at once: what the allocator keeps is said apart.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, memory_of_reading.__file__]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("kind", memory_of_reading.KINDS)
def test_reading_by_itk_takes_what_was_said_and_hardly_less(kind, of_kinds):
    said, taken = of_kinds[kind]
    assert taken <= said + LITTLE
    # ITK has what it reads twice, but for some formats, which is not known before.
    if not kind.startswith("float64 .nrrd"):
        assert said <= 1.15 * taken


@pytest.mark.parametrize(
    ("num_channels", "made"),
    # Image and result; then 27 values a voxel and channel, or, of what is not small, copies of both.
    [(8, 8 + 8 + 27 * 8), (32, 32 + 32 + 32 + 32)],
    ids=["PyTorch's own", "oneDNN"],
)
def test_a_convolution_takes_what_the_code_that_is_chosen_for_its_size_takes(num_channels, made):
    with torch.device("meta"):
        network = torch.nn.Conv3d(num_channels, num_channels, 3, padding=1)
        window = torch.empty((1, num_channels, 16, 128, 128))
    mib = 16 * 128 * 128 * 4 / 2**20
    assert forward_bytes(network, window) / 2**20 == pytest.approx((made - num_channels) * mib)


TORCH = {"resampling_fn_probabilities": "resample_torch_fornnunet"}
EXPORTS = {
    "between slices too": {"kwargs": {"is_seg": False, "order": 1, "order_z": 1, "force_separate_z": False}},
    "slices apart": {"kwargs": {"is_seg": False, "order": 1, "order_z": 1, "force_separate_z": True}},
    "by torch": {**TORCH, "kwargs": {"is_seg": False, "force_separate_z": False}},
    "by torch, slices apart": {**TORCH, "kwargs": {"is_seg": False, "force_separate_z": True}},
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process had at most since a moment")
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)], ids=["axes of the file", "other axes"])
def test_probabilities_that_are_saved_do_not_stay_in_memory(transpose, tmp_path, monkeypatch):
    model = load_model_folder(write_model(tmp_path, small_plans(transpose=transpose), labels=labels_of(12)))
    shape = (60, 160, 160)
    nothing = np.empty((1, 0, 0, 0), np.float32)
    properties = {"shape_before_cropping": shape}
    member = Member(
        predictor=ready_predictor(model.plan, model.weights, mirror_axes=(), tile_step_size=0.5, device="cpu"),
        image=PreparedImage(data=nothing, properties=properties, sample=nothing, sample_step=1),
    )
    of_slice = np.full((12, *shape[1:]), 1 / 12, np.float32)
    monkeypatch.setattr(Member, "probabilities", lambda _: iter([of_slice] * shape[0]))
    before = begin_measuring()
    _averaged([member], probabilities=(tmp_path / "case.npz", tmp_path / "case.pkl"))
    # 70 MiB in all, 6 of them a class; 1 a slice.
    assert memory_bytes("VmHWM") - before < 30 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process had at most since a moment")
@pytest.mark.parametrize("has_regions", [False, True], ids=["labels", "regions"])
@pytest.mark.parametrize("kind", EXPORTS)
def test_what_is_left_to_nnunets_export_takes_what_was_said_and_hardly_less(kind, has_regions, tmp_path, monkeypatch):
    changes = {key: value for key, value in EXPORTS[kind].items() if key != "kwargs"}
    plans = small_plans(spacing=(3.0, 3.0, 3.0), resampling_fn_probabilities_kwargs=EXPORTS[kind]["kwargs"], **changes)
    regions = {"background": 0, **{f"s{number}": [number, 12] for number in range(1, 13)}}
    labels, order = (regions, range(1, 13)) if has_regions else (labels_of(12), None)
    model = load_model_folder(write_model(tmp_path, plans, labels=labels, order=order))
    stock = ready_predictor(model.plan, model.weights, mirror_axes=(), tile_step_size=0.5, device="cpu")._predictor
    shape, new_shape, spacing = (48, 160, 160), (16, 60, 60), (1.0, 1.125, 1.125)
    properties = {
        "spacing": spacing,
        "shape_after_cropping_and_before_resampling": shape,
        "shape_before_cropping": shape,
        "bbox_used_for_cropping": [[0, size] for size in shape],
    }
    logits = torch.randn((12, *new_shape)).half()
    monkeypatch.setattr(stock_export, "stock_logits", lambda *_: logits.clone())
    nothing = np.empty((1, 0, 0, 0), np.float32)
    image = PreparedImage(data=nothing, properties=properties, sample=nothing, sample_step=1)
    windows = plan_sweep(stock, shape=new_shape, properties=properties)
    _, said = stock_export.stock_bytes(stock, windows, shape=shape, spacing_mm=spacing)
    before = begin_measuring()
    made = stock_export.stock_labels(stock, image)
    taken = memory_bytes("VmHWM") - before
    little = made.nbytes + 16 * 2**20  # the label map, code that is loaded, and what allocators keep
    assert taken <= said + little
    assert said <= 1.15 * taken + little
