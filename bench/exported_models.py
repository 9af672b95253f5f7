"""All models of a run as zips: how long `export` takes, and whether nnU-Net installs each and finds the same voxels.

    python -m bench.exported_models RUN [--images N] [--only PATTERN]

Each zip is installed by `nnUNetv2_install_pretrained_model_from_zip` and run by `nnUNetPredictor` of the installed
nnU-Net, on the images of N cases that its training was evaluated on, with the step that the zip names. Its label maps
are compared, voxel by voxel, with those that the run has predicted and scored. Prints a row a kind of training.
"""

import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions
from orchestrator.inference.exporting import INDEX
from orchestrator.inference.models import SETTINGS
from orchestrator.storage import run_paths

INSTALL = "nnUNetv2_install_pretrained_model_from_zip"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One model."""

    training: str
    num_images: int
    num_voxels: int
    num_structure_voxels: int
    """Of them not background in nnU-Net's label maps."""
    num_different: int


def main() -> int:
    """Export, install, predict, compare, and print; returns 1 if a voxel differs."""
    parser = command_line("exported_models", description=__doc__)
    parser.add_argument("run", type=existing_folder, help="output folder of a finished run on this machine")
    parser.add_argument("--images", type=positive_integer, default=2, help="for each model (default: 2)")
    parser.add_argument("--only", default="*", help="only trainings of such a name")
    options = parser.parse_args()
    print(conditions("nnunetv2", "torch"))
    with tempfile.TemporaryDirectory(prefix="bench-exported-") as temporary:
        folder = Path(temporary)
        start_s = time.monotonic()
        command = [sys.executable, "-m", "orchestrator", "export", str(options.run)]
        subprocess.run([*command, "--output", str(folder / "zips")], check=True, stdout=subprocess.DEVNULL)
        elapsed_s = time.monotonic() - start_s
        index = json.loads((folder / "zips" / INDEX).read_text(encoding="utf-8"))["models"]
        mib = sum(entry["bytes"] for entry in index.values()) / 2**20
        print(f"export: {len(index)} models, {mib:.0f} MiB, {elapsed_s:.1f} s\n")
        chosen = {file: one for file, one in index.items() if fnmatch.fnmatch(one["training"], options.only)}
        compared = list(_compare_all(chosen, options, folder))
    _print_rows(compared)
    return 1 if any(one.num_different for one in compared) else 0


def _compare_all(index: dict[str, dict[str, Any]], options: Any, folder: Path) -> Iterator[Compared]:
    for number, (file, entry) in enumerate(index.items(), start=1):
        model = _install(folder / "zips" / file, folder / entry["training"], dataset=entry["dataset"])
        compared = _compare(model, options.run, entry["training"], num_images=options.images, work=folder)
        said = (
            f"[{number} of {len(index)}] {file}: {compared.num_images} images, {compared.num_different} voxels differ"
        )
        print(said, file=sys.stderr, flush=True)
        yield compared


def _install(archive: Path, results: Path, *, dataset: str) -> Path:
    """Have nnU-Net install a zip into a folder of its own; returns the folder of the model."""
    results.mkdir()
    command = [str(Path(sys.executable).with_name(INSTALL)), str(archive)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "nnUNet_results": str(results)})
    (model,) = (results / dataset).iterdir()
    return model


def _compare(model: Path, run: Path, training: str, *, num_images: int, work: Path) -> Compared:
    predictor = _stock_predictor(model)
    predictions = run / run_paths.predictions(training)
    label_maps = _spread(sorted(predictions.rglob("*.nii.gz")), num_images)
    num_voxels = num_structure_voxels = num_different = 0
    for ours in label_maps:
        case = ours.relative_to(predictions).as_posix().removesuffix(".nii.gz")
        images = sorted((run / run_paths.CASES / case).glob("image*.nii.gz"))
        with redirect_stdout(sys.stderr):
            predictor.predict_from_files_sequential([list(map(str, images))], [str(work / "stock")])
        stock, found = sitk.ReadImage(str(work / "stock.nii.gz")), sitk.ReadImage(str(ours))
        # Ours lies on the grid of the download, in whatever order its axes are.
        voxels, expected = (sitk.GetArrayFromImage(one) for one in (sitk.DICOMOrient(found, "LPS"), stock))
        num_voxels += expected.size
        num_structure_voxels += np.count_nonzero(expected)
        num_different += np.count_nonzero(voxels != expected)
    return Compared(
        training=training,
        num_images=len(label_maps),
        num_voxels=num_voxels,
        num_structure_voxels=int(num_structure_voxels),
        num_different=int(num_different),
    )


def _stock_predictor(model: Path) -> Any:
    """Return nnU-Net's predictor with the fold and the step of an installed model, and its defaults besides."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    settings = json.loads((model / SETTINGS).read_text(encoding="utf-8"))["prediction"]
    (fold,) = (path.name.removeprefix("fold_") for path in model.glob("fold_*"))
    with redirect_stdout(sys.stderr):
        predictor = nnUNetPredictor(
            settings["tile_step_size"],
            device=torch.device("cpu"),
            perform_everything_on_device=False,
            verbose=False,
            allow_tqdm=False,
        )
        predictor.initialize_from_trained_model_folder(str(model), (fold,))
    return predictor


def _spread(files: Sequence[Path], number: int) -> list[Path]:
    """Return so many of the files, from the first to the last."""
    return [files[index] for index in sorted({round(at) for at in np.linspace(0, len(files) - 1, number)})]


def _print_rows(compared: Sequence[Compared]) -> None:
    groups: dict[str, list[Compared]] = defaultdict(list)
    for one in compared:
        groups[one.training.rpartition("-fold")[0]].append(one)
    print("| trainings | models | images | voxels | of a structure | that differ |")
    print("|---|---|---|---|---|---|")
    for group, members in [*groups.items(), ("all", list(compared))]:
        sums = [
            sum(getattr(one, name) for one in members)
            for name in ("num_images", "num_voxels", "num_structure_voxels", "num_different")
        ]
        print(f"| {group} | {len(members)} | {' | '.join(f'{value:,}' for value in sums)} |")


if __name__ == "__main__":
    sys.exit(main())
