"""Write a study file for data sets in nnU-Net's raw layout, or check one against its data."""

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.benchmark.checks.configurations import check_configurations
from orchestrator.benchmark.draft import MODELS, draft_study, models_named
from orchestrator.benchmark.leaks import leak_lines
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import find_preset
from orchestrator.benchmark.raw_dataset import RawDataset
from orchestrator.benchmark.study import ALL_MATRICES, Study
from orchestrator.benchmark.tables import load_tables
from orchestrator.cli.console import EXIT_DONE, EXIT_NOT_DONE, command_parser, run_command, say
from orchestrator.cli.doctor import examine, show_text, with_survey
from orchestrator.configuration import counted, is_folder
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.images.image_file import ImageFile
from orchestrator.images.problem import Problem, printable
from orchestrator.sources.nnunet_raw.files import TRAINING
from orchestrator.sources.nnunet_raw.survey import (
    RAW_VARIABLE,
    Describer,
    Survey,
    described,
    own_raw_folder,
    raw_folder_of_environment,
    survey,
)
from orchestrator.sources.registry import check_sources
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.nnunet.classes import check_models

FILE = "study.yaml"
_STUDY_ENDINGS = (".yaml", ".yml")
_FLAT_ENDINGS = (".png", ".bmp", ".tif")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "study",
        "Write a study file for data sets in nnU-Net's raw layout: their labels, channels and cases are those of "
        "dataset.json, the folds are nnU-Net's own. Or, with --check, compare a study file with its data: what is "
        "missing, which labels and channels do not fit, which patients are on both sides of a split. Exit code 0: "
        "written, or no problem; 1: problems; 2: bad input.",
    )
    add = parser.add_argument
    add("what", nargs="+", help="data sets (Dataset137, or the whole name of the folder), or a study file with --check")
    add("--data", help=f"folder or bucket with the data sets (default: the environment variable {RAW_VARIABLE})")
    add("--output", type=Path, help=f"folder for {FILE} (default: the name of the first data set)")
    add(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help=f"{', '.join(MODELS)} or a trainer of nnU-Net's; may be repeated (default: 3d; 2d for pictures and "
        "images of one slice)",
    )
    add("--check", action="store_true", help="check a study file instead of writing one")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    return run_command(build_parser(), arguments, _work, bad_input=(OrchestratorError,))


def _work(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    return check(options, console=console) if options.check else write(options, console=console)


def write(options: argparse.Namespace, *, console: Console) -> int:
    """Write a study file."""
    location = options.data or raw_folder_of_environment()
    if location is None:
        raise ConfigError(f"nothing says where the data sets are; expected --data, or {RAW_VARIABLE} to be set")
    if files := [word for word in options.what if word.endswith(_STUDY_ENDINGS)]:
        raise ConfigError(f"{files[0]}: a study file; expected --check, or the names of data sets")
    if options.output and options.output.suffix in _STUDY_ENDINGS:
        raise ConfigError(
            f"--output {options.output}: expected a folder, in which {FILE} is written; it can be renamed afterwards"
        )
    surveys = [survey(location, folder) for folder in options.what]
    problems = [problem for seen in surveys for problem in seen.cases.problems]
    _show(problems, [note for seen in surveys for note in seen.cases.notes], console=console)
    models = models_named(options.model or _usual_models(surveys, location=location))
    found = [described(seen) for seen in surveys]
    text = draft_study(found, models=models)
    folder: Path = options.output or Path(surveys[0].folder)
    path = folder / FILE
    _check_draft(text, found, path=path)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path}: there already, and it says something else; expected another --output")
    open_storage(str(folder)).write_bytes(FILE, text.encode())
    say(text.rstrip(), console=console)
    where = f" --data {shlex.quote(options.data)}" if options.data else ""
    say(f"\nwritten to {path}. What would be trained:", console=console)
    say(f"  orchestrator run --study {shlex.quote(str(path))}{where} --dry-run", console=console)
    return EXIT_NOT_DONE if problems else EXIT_DONE


def _check_draft(text: str, datasets: Sequence[RawDataset], *, path: Path) -> None:
    """Raise ConfigError for data sets that no study can have as they are, before a file of it is written."""
    # The draft names a folder by its number alone where its name has a space.
    known = {name: one for one in datasets for name in (one.folder, one.folder.partition("_")[0])}
    with tempfile.TemporaryDirectory(prefix="draft-") as folder:
        draft = Path(folder) / FILE
        draft.write_text(text, encoding="utf-8")
        try:
            study = load_study(draft, describe=known.__getitem__)
            check_models(study.models)
            check_configurations(study, where=str(path))
        except ConfigError as error:
            raise ConfigError(f"not written: {str(error).replace(str(draft), str(path))}") from error


def _usual_models(surveys: Sequence[Survey], *, location: str) -> list[str]:
    return ["2d"] if all(_is_flat(seen, location=location) for seen in surveys) else ["3d"]


def _is_flat(seen: Survey, *, location: str) -> bool:
    """Whether images are pictures, or the first of them has one slice."""
    said = seen.description
    if said.file_ending in _FLAT_ENDINGS or not seen.cases.training:
        return said.file_ending in _FLAT_ENDINGS
    name = seen.cases.training[0]
    image = said.listed[name].images[0] if said.listed else f"{TRAINING[0]}/{name}_0000{said.file_ending}"
    try:
        path = open_storage(location).fetch(f"{seen.folder}/{image}")
        return ImageFile(path=path, must_be_stack=said.must_be_stack).header().geometry.size[2] == 1
    except OrchestratorError:
        # Whoever checks or trains says what is wrong with it.
        return False


def check(options: argparse.Namespace, *, console: Console) -> int:
    """Compare a study file with its data."""
    if len(options.what) > 1 or options.model or options.output:
        raise ConfigError("--check: expected one study file, and at most --data beside it")
    location = options.data or raw_folder_of_environment()
    describer = Describer(location, is_strict=False) if location else None
    study = load_study(Path(options.what[0]), describe=describer)
    location = options.data or own_raw_folder(study.datasets)
    check_models(study.models)
    check_sources(study.datasets, where=str(study.path))
    check_configurations(study, where=str(study.path))
    load_tables(study)
    preset = find_preset("paper")
    trainings = study.trainings(matrix=ALL_MATRICES, preset=preset)
    has_problems = False
    if location is not None and is_folder(location):
        findings = examine(trainings, study=study, downloads=Path(location), thorough=False, num_threads=2)
        findings = tuple(with_survey(finding, describer=describer) for finding in findings) if describer else findings
        has_problems = any(finding.problems for finding in findings)
        show_text(findings, is_quick=False, console=console)
        say("Only headers were read; the command doctor reads every voxel.", console=console)
    elif describer is not None:
        cases = [seen.cases for seen in describer.surveys.values()]
        problems = [problem for found in cases for problem in found.problems]
        has_problems = bool(problems)
        _show(problems, [note for found in cases for note in found.notes], console=console)
    for line in leak_lines(study.patient_leaks(trainings)):
        say(f"note: {line}", console=console)
    say(_summary(study, num_trainings=len(trainings), has_data=location is not None), console=console)
    return EXIT_NOT_DONE if has_problems else EXIT_DONE


def _summary(study: Study, *, num_trainings: int, has_data: bool) -> str:
    numbers = {"training": num_trainings, "data set": len(study.datasets), "model": len(study.models)}
    told = ", ".join(counted(number, noun) for noun, number in numbers.items())
    return f"{study.path}: {told}{'' if has_data else '; without --data, no file of theirs was looked at'}."


def _show(problems: Sequence[Problem], notes: Sequence[str], *, console: Console) -> None:
    for line in [*(problem.line for problem in problems), *(f"note: {note}" for note in notes)]:
        say(printable(line), console=console)
