"""Predict images with a trained model: of this project, or any nnU-Net."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from orchestrator.cli.console import (
    EXIT_DONE,
    EXIT_NOT_DONE,
    EXIT_USAGE,
    command_parser,
    counting,
    run_command,
    say,
)
from orchestrator.configuration import counted
from orchestrator.inference.predict import predict


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "predict",
        "Predict images with a trained nnU-Net, slice by slice: the labels are those of nnU-Net's own prediction. What "
        "is predicted already is kept. Exit code 0: everything is predicted; 1: a case failed, which its row says; 2: "
        "the command line, the model or all images are wrong.",
    )
    add = parser.add_argument
    add("input", type=Path, help="image, DICOM series, folder of these, or CSV with the columns case and image")
    add(
        "--model",
        action="append",
        required=True,
        help="folder of a trained model in nnU-Net's layout, a zip of one, or a run; a YAML file of several; may be "
        "repeated, for the mean of their probabilities",
    )
    add("--training", help="which training, where the model is a run of several")
    add("--fold", action="append", default=[], help="fold of a folder or zip; may be repeated (default: all there are)")
    add("--checkpoint", metavar="NAME", help="weights of a folder or zip (default: checkpoint_final.pth)")
    add("--output", required=True, help="folder of the label maps, of a JSON for each, and of predictions.csv")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add("--step", type=float, help="step of the window as a share of it (default: the model's; nnU-Net's is 0.5)")
    mirroring = parser.add_mutually_exclusive_group()
    mirroring.add_argument("--mirror", action="store_true", default=None, help="average over mirrored images")
    mirroring.add_argument(
        "--no-mirror", dest="mirror", action="store_false", help="do not (default: as the model did)"
    )
    add("--max-memory", type=float, metavar="GIB", help="leave out cases that would take more (default: none)")
    add("--structure", action="append", default=[], help="keep this one; may be repeated (default: all)")
    add("--save-probabilities", action="store_true", help="write .npz and .pkl beside, as nnU-Net does")
    add("--overlays", action="store_true", help="draw pictures of the label maps: three planes, a mosaic of slices")
    add("--dicom-seg", action="store_true", help="write label maps of DICOM series as DICOM Segmentation, too")
    add("--dicom-rtstruct", action="store_true", help="write them as contours (DICOM RT Structure Set), too")
    add("--study", type=Path, help="study file whose tables.yaml has codes of structures and derived values")
    add("--cluster", type=Path, help="cluster file: predict as Ray tasks; model and folders must be seen there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if everything is predicted, 1 if not, 2 for bad input, 130 after Ctrl-C."""
    return run_command(
        build_parser(),
        arguments,
        _predict,
        interrupted="Interrupted; the same command goes on.",
    )


def _predict(options: argparse.Namespace, console: Console, errors: Console) -> int:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with counting(errors, *columns) as on_case:
        rows = predict(
            options.model,
            options.input,
            output=options.output,
            training=options.training,
            folds=options.fold,
            checkpoint=options.checkpoint,
            device=options.device,
            tile_step_size=options.step,
            mirrors=options.mirror,
            max_memory_gib=options.max_memory,
            structures=options.structure,
            save_probabilities=options.save_probabilities,
            overlays=options.overlays,
            dicom_seg=options.dicom_seg,
            dicom_rtstruct=options.dicom_rtstruct,
            study=options.study,
            cluster=options.cluster,
            note=lambda line: say(line, console=errors),
            on_case=on_case,
        )
    failed = [row for row in rows if row.status == "failed"]
    for row in rows:
        if row.message:
            say(f"{'failed: ' if row.status == 'failed' else ''}{row.case}: {row.message}", console=errors)
    if failed and all(row.is_bad_input for row in rows):
        return EXIT_USAGE
    num_kept = sum(row.status == "kept" for row in rows)
    kept = f", {num_kept} of them before" if num_kept else ""
    say(f"{counted(len(rows) - len(failed), 'case')} predicted{kept}: {options.output}", console=console)
    return EXIT_NOT_DONE if failed else EXIT_DONE
