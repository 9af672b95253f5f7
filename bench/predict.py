"""Prediction of one image, slice by slice, beside nnU-Net's own: CPU seconds, memory and labels.

    python -m bench.predict [--classes N ...] [--shape Z Y X] [--patch Z Y X] [--mirror] [--rounds N]
                            [--scan organs] [--network organs] [--only ours --limit-gib 4]

An image of smooth bodies at 0.7 mm, slices 1.5 mm apart, predicted on a grid of 1.4 mm. Each arm runs in a process of
its own with one thread, by turns; of several rounds the median is shown. Shown are CPU seconds from the file to the
label map in memory, and of nnU-Net's export alone (resampling of the logits and argmax; of ours everything beside the
network and the averages of windows); memory is the largest of the process, less what it had when the model was ready.
"said" is what our process says to take at most before it starts, on the same scale. Labels are compared voxel by voxel.

`--scan organs` has compact bodies of several centimetres, each of its own class, in background: the label maps of
whole-body models are like that. `--limit-gib` gives each process so much memory and no more, by a control group where
one can be made.

By default the network is a stand-in that costs next to nothing and draws bands of intensity: of many classes
neighbours are nearly ties, and between two bodies lie thin bands of all classes between theirs. `--network organs` is
one that finds a class where the intensity is its own, background elsewhere, and all others far below, as networks do
that have learned; `--network unet` is a small PlainConvUNet with random weights, whose logits are nearly ties
everywhere.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions, resident_gib
from bench.instruments.memory_limit import run_within
from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model

ARMS = ("nnU-Net", "ours")
SPACING_XYZ = (0.7, 0.7, 1.5)
NETWORK_SPACING = (1.5, 1.4, 1.4)


def main() -> int:
    """Measure, and print a table; returns 1 if a label differs."""
    options = _parse()
    if options.arm:
        print(json.dumps(_measure(options)))
        return 0
    print(conditions("nnunetv2", "torch", "numba"))
    size = " x ".join(map(str, options.shape))
    print(f"{size} voxels, window {' x '.join(map(str, options.patch))}, {options.rounds} rounds")
    print("| classes | arm | CPU s | export, CPU s | GiB | said, GiB | labels that differ |")
    print("|---|---|---|---|---|---|---|")
    num_different = 0
    with tempfile.TemporaryDirectory(prefix="bench-predict-") as temporary:
        folder = Path(temporary)
        for num_classes in options.classes:
            path = folder / "case_0000.nii.gz"
            image = write_scan(path, options.shape, options.scan, num_classes=num_classes)
            plans = small_plans(patch=options.patch, spacing=NETWORK_SPACING, features=(8, 16, 32))
            write_model(folder / f"of-{num_classes}", plans, labels=labels_of(num_classes))
            num_different += _compare(options, folder, image, num_classes=num_classes)
    return 1 if num_different else 0


def write_scan(path: Path, shape: Sequence[int], kind: str, *, num_classes: int) -> Path:
    """Write an image of `organs` or `bodies`; returns its path."""
    make = _organs if kind == "organs" else _bodies
    image = sitk.GetImageFromArray(make(shape, num_classes=num_classes))
    image.SetSpacing(SPACING_XYZ)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    return path


def _bodies(shape: Sequence[int], *, num_classes: int) -> Any:
    """Return smooth bodies of about 60 mm."""
    del num_classes
    coarse = [2 + int(size * step / 60) for size, step in zip(shape, SPACING_XYZ[::-1], strict=True)]
    field = np.random.default_rng(0).standard_normal(coarse).astype(np.float32)
    factors = [size / num for size, num in zip(shape, coarse, strict=True)]
    voxels = ndimage.zoom(field, factors, order=1, mode="nearest", grid_mode=True)
    return (voxels * 300 - 200).astype(np.int16)


def _organs(shape: Sequence[int], *, num_classes: int) -> Any:
    """Return the intensities at which `_bands` finds compact classes: voxels belong to the nearest of some centres.

    These stand about 40 mm apart; a third of them are organs, the others background.
    """
    extent_mm = [size * step for size, step in zip(shape, SPACING_XYZ[::-1], strict=True)]
    random = np.random.default_rng(0)
    num_centres = max(9, int(np.prod(extent_mm) / 40**3))
    centres = random.uniform(0, extent_mm, (num_centres, 3))
    classes = np.where(np.arange(num_centres) % 3 == 0, random.integers(0, num_classes, num_centres), 0)
    z, y, x = (np.arange(0, size, 2) * step for size, step in zip(shape, SPACING_XYZ[::-1], strict=True))
    found = np.stack(
        [cKDTree(centres).query(np.stack(np.meshgrid(at, y, x, indexing="ij"), axis=-1).reshape(-1, 3))[1] for at in z]
    )
    labels = classes[found].reshape(len(z), len(y), len(x))
    index = np.ix_(*(np.arange(size) // 2 for size in shape))
    levels = np.linspace(-1.5, 1.5, num_classes) * 300 - 200
    return levels[labels].round().astype(np.int16)[index]


def _parse() -> argparse.Namespace:
    parser = command_line("predict", description=__doc__)
    add = parser.add_argument
    add("--classes", type=positive_integer, nargs="+", default=[3, 25, 118])
    add("--shape", type=positive_integer, nargs=3, default=[60, 512, 512])
    add("--patch", type=positive_integer, nargs=3, default=[32, 128, 128])
    add("--mirror", action="store_true", help="average over mirrored images")
    add("--rounds", type=positive_integer, default=1)
    add("--scan", choices=("bodies", "organs"), default="bodies")
    add("--limit-gib", type=float, help="memory of each process")
    add("--network", choices=("bands", "organs", "unet"), default="bands")
    add("--only", choices=ARMS, help="one arm alone, for sizes at which the other has no room")
    add("--arm", choices=ARMS, help=argparse.SUPPRESS)
    add("--model", type=Path, help=argparse.SUPPRESS)
    add("--image", type=Path, help=argparse.SUPPRESS)
    add("--labels", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(options: argparse.Namespace, folder: Path, image: Path, *, num_classes: int) -> int:
    """Run the arms by turns, print their rows, and return how many labels differ."""
    arms = [options.only] if options.only else ARMS
    measured: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(options.rounds):
        for arm in arms:
            measured[arm].append(_in_a_process(options, folder, image, arm=arm, num_classes=num_classes))
    labels = [np.load(folder / f"{arm}.npy") for arm in arms]
    num_different = int(np.count_nonzero(labels[0] != labels[-1]))
    for arm, rows in measured.items():
        cpu_s, export_s, gib, said = (
            statistics.median(row[key] for row in rows) for key in ("cpu_s", "export_s", "gib", "said_gib")
        )
        told = f"{said:.2f}" if said else "-"
        print(f"| {num_classes} | {arm} | {cpu_s:.1f} | {export_s:.2f} | {gib:.2f} | {told} | {num_different} |")
    return num_different


def _in_a_process(
    options: argparse.Namespace, folder: Path, image: Path, *, arm: str, num_classes: int
) -> dict[str, Any]:
    (model,) = (folder / f"of-{num_classes}").glob("*/*")
    command = [sys.executable, "-m", "bench.predict", "--arm", arm, "--model", str(model), "--image", str(image)]
    command += ["--labels", str(folder / f"{arm}.npy"), "--network", options.network, "--classes", str(num_classes)]
    command += ["--patch", *map(str, options.patch), *(["--mirror"] if options.mirror else [])]
    limit = None if options.limit_gib is None else round(options.limit_gib * 2**30)
    said, how = run_within(command, limit_bytes=limit)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    if limit is not None:
        print(f"{arm}, {num_classes} classes: done within {options.limit_gib:g} GiB ({how})", file=sys.stderr)
    return found


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """Predict in this process with one arm, and return what it took."""
    import torch

    torch.set_num_threads(1)
    arm = _Ours(options) if options.arm == "ours" else _Stock(options)
    with tempfile.TemporaryDirectory() as folder:
        # Compiled kernels are loaded, and torch's threads started, once a process.
        (small,) = write_image(Path(folder) / "small", shape=(12, 40, 40), spacing_xyz=SPACING_XYZ)
        arm.predict(small)
    arm.export_s = 0.0
    before_gib = resident_gib()
    start_s = time.process_time()
    labels = arm.predict(options.image)
    cpu_s = time.process_time() - start_s
    gib = resident_gib(most=True) - before_gib
    np.save(options.labels, labels)
    said = max(0.0, arm.said_bytes / 2**30 - before_gib)
    return {"cpu_s": cpu_s, "export_s": arm.export_s, "gib": gib, "said_gib": said}


def _bands(num_classes: int) -> Any:
    """Return a network of one layer: class k is the best where the intensity is nearest to the k-th of even steps."""
    import torch

    network = torch.nn.Conv3d(1, num_classes, 1)
    centres = torch.linspace(-1.5, 1.5, num_classes)
    with torch.no_grad():
        network.weight.copy_((40 * centres).reshape(-1, 1, 1, 1, 1))
        network.bias.copy_(-20 * centres**2)
    return network.eval()


def _islands(num_classes: int) -> Any:
    """Return a network without weights: class k leads where the intensity is the k-th of even steps, else class 0."""
    import torch

    class Islands(torch.nn.Module):
        centres = torch.linspace(-1.5, 1.5, num_classes).reshape(-1, 1, 1, 1)
        step = 3.0 / max(1, num_classes - 1)

        def forward(self, image: Any) -> Any:
            steps_off = (image - self.centres).abs_().mul_(-30 / self.step)
            logits = steps_off.add_(8.0).clamp_(min=-12.0)
            logits[:, 0].clamp_(min=-1.0)
            return logits

    return Islands().eval()


STAND_INS = {"bands": _bands, "organs": _islands}


class _Stock:
    """nnU-Net's predictor."""

    said_bytes = 0

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        self.export_s = 0.0
        self._predictor = nnUNetPredictor(0.5, True, options.mirror, False, torch.device("cpu"), allow_tqdm=False)
        self._predictor.initialize_from_trained_model_folder(str(options.model), (0,))
        if options.network in STAND_INS:
            self._predictor.network = STAND_INS[options.network](options.classes[0])
            self._predictor.list_of_parameters = [self._predictor.network.state_dict()]

    def predict(self, image: Path) -> Any:
        import torch
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

        one = self._predictor
        preprocessor = one.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case(
            [str(image)], None, one.plans_manager, one.configuration_manager, one.dataset_json
        )
        logits = one.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
        start_s = time.process_time()
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, one.plans_manager, one.configuration_manager, one.label_manager, properties, num_threads_torch=1
        )
        self.export_s = time.process_time() - start_s
        return labels


class _Ours:
    """Slice by slice."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        from kernels.windows.label_stream import LabelStream
        from orchestrator.training.nnunet.model_folder import load_model_folder
        from orchestrator.training.nnunet.prediction import ready_predictor
        from orchestrator.training.nnunet.prediction_memory import forward_bytes, own_bytes, read_header

        model = load_model_folder(options.model)
        self._plan = model.plan
        axes = model.mirror_axes if options.mirror else ()
        self._predictor = ready_predictor(model.plan, model.weights, mirror_axes=axes, tile_step_size=0.5, device="cpu")
        if options.network in STAND_INS:
            with torch.device("meta"):
                given, network = torch.empty((1, 1, *options.patch)), STAND_INS[options.network](options.classes[0])
            self._predictor._activation_bytes = forward_bytes(network, given)  # noqa: SLF001
        header = read_header(options.image)
        expected = None if header is None else self._predictor.expected_bytes(header)
        self.said_bytes = 0 if expected is None else own_bytes() + expected[1]
        if options.network in STAND_INS:
            self._predictor._networks = (STAND_INS[options.network](options.classes[0]),)  # noqa: SLF001
        self.export_s = 0.0
        # nnU-Net averages the windows as part of its prediction.
        self._add_time(LabelStream, "_finish", sign=1)
        self._add_time(LabelStream, "_average", sign=-1)

    def _add_time(self, stream: type, name: str, *, sign: int) -> None:
        method = getattr(stream, name)

        def timed(one: Any) -> None:
            start_s = time.process_time()
            method(one)
            self.export_s += sign * (time.process_time() - start_s)

        setattr(stream, name, timed)

    def predict(self, image: Path) -> Any:
        from orchestrator.training.nnunet.prepared_image import prepare_image, read_images

        return self._predictor.labels(prepare_image(*read_images([image], self._plan), self._plan))


if __name__ == "__main__":
    sys.exit(main())
