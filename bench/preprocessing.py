"""Preprocessing of one training case beside nnU-Net's own: CPU seconds, memory and what comes out.

    python -m bench.preprocessing [--labels N ...] [--shape Z Y X] [--spacing Z Y X] [--target Z Y X] [--rounds N]
                                  [--only ours]

A chest CT with so many labels, 0.7 mm wide and in slices 1.5 mm apart, from its two files to normalised intensities,
labels and places of classes on a grid of 1.5 x 1.4 x 1.4 mm: by `DefaultPreprocessor.run_case` and by this project.
Each arm runs in a process of its own, by turns, with one thread; of several rounds the median is shown. Memory is the
largest of the process, less what it had after a small case. The results are compared, number by number.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from bench.feed.cases import make_scan
from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions, resident_gib
from bench.instruments.stock_models import labels_of, small_plans, write_image

ARMS = ("nnU-Net", "ours")


def main() -> int:
    """Measure, and print a table; returns 1 if a result differs."""
    options = _parse()
    if options.arm:
        print(json.dumps(_measure(options)))
        return 0
    print(conditions("nnunetv2", "scipy", "numba"))
    print(f"{' x '.join(map(str, options.shape))} voxels, {options.rounds} rounds")
    print("| labels | arm | CPU s | GiB | results that differ |")
    print("|---|---|---|---|---|")
    is_different = False
    with tempfile.TemporaryDirectory(prefix="bench-preprocessing-") as temporary:
        for num_labels in options.labels:
            folder = Path(temporary) / str(num_labels)
            folder.mkdir()
            image, labels = make_scan(np.random.default_rng(0), shape=options.shape, num_labels=num_labels)
            _write(folder / "image_0000.nii.gz", image.astype(np.int16), options)
            _write(folder / "labels.nii.gz", labels.astype(np.uint8), options)
            del image, labels
            is_different |= _compare(options, folder, num_labels=num_labels)
    return int(is_different)


def _parse() -> argparse.Namespace:
    parser = command_line("preprocessing", description=__doc__)
    add = parser.add_argument
    add("--labels", type=positive_integer, nargs="+", default=[2, 24])
    add("--shape", type=positive_integer, nargs=3, default=[300, 512, 512])
    add("--spacing", type=float, nargs=3, default=[1.5, 0.7, 0.7], help="of the files, mm")
    add("--target", type=float, nargs=3, default=[1.5, 1.4, 1.4], help="of the grid, mm")
    add("--rounds", type=positive_integer, default=1)
    add("--only", choices=ARMS, help="one arm alone, for sizes at which the other has no room")
    add("--arm", choices=ARMS, help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(path: Path, voxels: Any, options: argparse.Namespace) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(options.spacing[::-1])
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def _compare(options: argparse.Namespace, folder: Path, *, num_labels: int) -> bool:
    """Run the arms by turns, print their rows, and return whether a result differs."""
    measured: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ([options.only] if options.only else ARMS)}
    for _ in range(options.rounds):
        for arm, rows in measured.items():
            command = [sys.executable, "-m", "bench.preprocessing", "--arm", arm, "--folder", str(folder)]
            command += ["--labels", str(num_labels), "--target", *map(str, options.target)]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
            done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **threads})
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    results = [row["results"] for rows in measured.values() for row in rows]
    different = [name for name in results[0] if len({one[name] for one in results}) > 1]
    for arm, rows in measured.items():
        cpu_s, gib = (statistics.median(row[key] for row in rows) for key in ("cpu_s", "gib"))
        print(f"| {num_labels} | {arm} | {cpu_s:.1f} | {gib:.2f} | {', '.join(different) or 'none'} |")
    return bool(different)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Preprocess in this process with one arm, and return what it took and digests of what came out."""
    from orchestrator.training.nnunet.planning import Plan

    plans = small_plans(spacing=options.target)
    dataset = {"channel_names": {"0": "CT"}, "labels": labels_of(options.labels[0] + 1), "file_ending": ".nii.gz"}
    plan = Plan(plans=plans, dataset_json=dataset, configuration="3d_fullres")
    run = _ours if options.arm == "ours" else _stock
    with tempfile.TemporaryDirectory() as folder:
        # Compiled kernels are loaded, and threads started, once a process.
        (small,) = write_image(Path(folder) / "small", shape=(12, 40, 40), spacing_xyz=options.spacing[::-1])
        sitk.WriteImage(sitk.ReadImage(str(small)) > 0, f"{folder}/labels.nii.gz")
        run(small, Path(folder) / "labels.nii.gz", plan)
    before_gib = resident_gib()
    start_s = time.process_time()
    data, seg, properties = run(options.folder / "image_0000.nii.gz", options.folder / "labels.nii.gz", plan)
    cpu_s = time.process_time() - start_s
    gib = resident_gib(most=True) - before_gib
    places = properties.pop("class_locations")
    results = {
        "intensities": (data.dtype, data.shape, _digest(data)),
        "labels": (seg.dtype, seg.shape, _digest(seg)),
        "places": {label: _digest(np.asarray(at, np.int64)) for label, at in places.items()},
        "properties": properties,
    }
    return {"cpu_s": cpu_s, "gib": gib, "results": {name: repr(results[name]) for name in results}}


def _digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _stock(image: Path, labels: Path, plan: Any) -> tuple[Any, Any, Any]:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    managers = plan.plans_manager, plan.configuration_manager, plan.dataset_json
    found: tuple[Any, Any, Any] = DefaultPreprocessor(verbose=False).run_case([str(image)], str(labels), *managers)
    return found


def _ours(image: Path, labels: Path, plan: Any) -> tuple[Any, Any, Any]:
    from orchestrator.training.nnunet.preprocessing import preprocess_case

    made = preprocess_case([image], labels, plan)
    return made.data, made.seg, made.properties


if __name__ == "__main__":
    sys.exit(main())
