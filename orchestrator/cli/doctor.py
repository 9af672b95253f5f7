"""Check a data folder: read everything that the chosen trainings need and list all of its problems at once."""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.benchmark.definition import Dataset, Training
from orchestrator.benchmark.leaks import NUM_LINES, AlikeCases, PatientLeak, alike_leaks, first_lines, leak_lines
from orchestrator.benchmark.loading import DEFAULT_STUDY, load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study import Study
from orchestrator.cli.console import (
    EXIT_DONE,
    EXIT_NOT_DONE,
    command_parser,
    print_whole,
    run_command,
    say,
)
from orchestrator.configuration import counted, is_folder
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.images.alike.cases import alike_cases
from orchestrator.images.problem import Problem, printable
from orchestrator.sources.case import CaseRequest
from orchestrator.sources.inspect import inspect_downloads
from orchestrator.sources.nnunet_raw.survey import (
    RAW_VARIABLE,
    Describer,
    own_raw_folder,
    raw_folder_of_environment,
)
from orchestrator.sources.training_labels import flat_images, missing_labels
from orchestrator.workflow.graph import label_sets_by_case

_OF_COPIES = "pairs of cases show the same (--json lists all)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found in one data set."""

    dataset: str
    """Name of the data set."""
    download: str
    """Folder of its download."""
    num_cases: int
    """Cases that were looked at."""
    problems: tuple[Problem, ...]
    """Everything that is wrong with them, so that a run would fail."""
    warnings: tuple[str, ...]
    """What a run would take as it is but is hardly right; shown by voxels only."""
    notes: tuple[str, ...]
    """What a run would change or tolerate."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "doctor",
        "Read every image and mask that the chosen trainings need, check them as a run would, and list all "
        "problems, one a line, all warnings and what a run would change or tolerate. Exit code 0: no problem, warnings "
        "or not; 1: problems; 2: the command line is wrong.",
    )
    add = parser.add_argument
    add("--data", help=f"folder with the data sets (default for those in nnU-Net's layout: {RAW_VARIABLE})")
    add("--study", type=Path, default=DEFAULT_STUDY, help="what is trained (default: the shipped study)")
    add("--preset", default="paper", help=f"whose cases are checked: {', '.join(PRESETS)} (default: paper, all)")
    add("--matrix", help="which trainings of the study, all for every one (default: its first matrix)")
    add(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only trainings of such a name, or with FACET=PATTERN; may be repeated",
    )
    add("--quick", action="store_true", help="headers only, as the command run does before it starts")
    add("--threads", type=int, default=2, help="cases checked at a time (default: 2)")
    add("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if nothing is wrong, 1 if something is, 2 for a wrong command line."""
    return run_command(build_parser(), arguments, diagnose, bad_input=(OrchestratorError,))


def diagnose(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    """Look through the data that the command line names, and print what was found."""
    location = options.data or raw_folder_of_environment()
    describer = Describer(location, is_strict=False) if location else None
    try:
        study = load_study(options.study, describe=describer)
    except ConfigError:
        # Where folds lack cases that were left out for their problems, the first of these is told instead.
        load_study(options.study, describe=Describer(location) if location else None)
        raise
    data = _folder(options.data or own_raw_folder(study.datasets))
    findings = examine(
        requested_trainings(options, study=study),
        study=study,
        downloads=data,
        thorough=not options.quick,
        num_threads=max(1, options.threads),
        most_pairs=None if options.json else NUM_LINES,
    )
    findings = tuple(with_survey(finding, describer=describer) for finding in findings) if describer else findings
    if options.json:
        show_json(findings, console=console)
    else:
        show_text(findings, is_quick=options.quick, console=console)
    return EXIT_NOT_DONE if any(finding.problems for finding in findings) else EXIT_DONE


def _folder(data: str | None) -> Path:
    """Return the folder with the data sets; raises ConfigError if nothing says it, or it is none."""
    if data is None:
        raise ConfigError(
            f"nothing says where the data sets are; expected --data, or {RAW_VARIABLE} for those in nnU-Net's layout"
        )
    if not is_folder(data):
        raise ConfigError(f"--data {data}: no such folder of this machine; expected the one with the data sets")
    return Path(data)


def requested_trainings(options: argparse.Namespace, *, study: Study) -> tuple[Training, ...]:
    """Return the trainings of the command line and those whose plans they take over; raises ConfigError."""
    preset = study.preset(options.preset)
    trainings = study.trainings(matrix=options.matrix, only=tuple(options.only), preset=preset)
    # A run also plans the trainings whose patch size others take over.
    donors = study.donors(trainings, preset=preset)
    asked_for = {training.id for training in trainings}
    return (*trainings, *(donor for donor in donors.values() if donor.id not in asked_for))


def requested_cases(trainings: Sequence[Training], *, datasets: Sequence[Dataset]) -> list[CaseRequest]:
    """Return every case that these trainings need."""
    by_name = {dataset.name: dataset for dataset in datasets}
    return [
        CaseRequest(dataset=by_name[case.dataset], case_name=case.name, label_sets=label_sets)
        for case, label_sets in sorted(label_sets_by_case(trainings).items())
    ]


def examine(
    trainings: Sequence[Training],
    *,
    study: Study,
    downloads: Path,
    thorough: bool,
    num_threads: int,
    most_pairs: int | None = NUM_LINES,
) -> tuple[Finding, ...]:
    """Inspect the cases of trainings, data set by data set; of pairs that show the same, `most_pairs` are told each."""
    requests: defaultdict[str, list[CaseRequest]] = defaultdict(list)
    for request in requested_cases(trainings, datasets=study.datasets):
        requests[request.dataset.name].append(request)
    seen = {
        name: inspect_downloads(of_it, downloads=downloads, thorough=thorough, num_threads=num_threads)
        for name, of_it in requests.items()
    }
    by_name = {dataset.name: dataset for dataset in study.datasets}
    # A training may have cases of several data sets.
    labels = {key: there for inspection in seen.values() for key, there in inspection.labels_seen.items()}
    small = {case: one for inspection in seen.values() for case, one in inspection.thumbnails.items()}
    num_slices = {case: number for inspection in seen.values() for case, number in inspection.num_slices.items()}
    alike = alike_cases(small)
    leaks = alike_leaks(alike, trainings, declared=study.patient_leaks(trainings))
    findings = []
    for name, of_it in seen.items():
        dataset = by_name[name]
        on_it = [training for training in trainings if training.train[0].dataset == name]
        told = [leak for leak in leaks if leak.train_case.dataset == name]
        copies = list(_copies(alike, leaks, datasets=by_name, dataset=name))
        missing = missing_labels(on_it, label_set_of=study.label_set, labels_seen=labels)
        findings.append(
            Finding(
                dataset=name,
                download=str(downloads / dataset.folder),
                num_cases=len(requests[name]),
                problems=(*of_it.problems, *missing.problems, *flat_images(on_it, num_slices=num_slices)),
                warnings=(*of_it.warnings, *missing.warnings, *leak_lines(told, most=most_pairs)),
                notes=(*of_it.notes, *first_lines(copies, most=most_pairs, words=_OF_COPIES, where=f"{name}: ")),
            )
        )
    return tuple(findings)


def _copies(
    alike: Sequence[AlikeCases], leaks: Sequence[PatientLeak], *, datasets: Mapping[str, Dataset], dataset: str
) -> Iterator[str]:
    """Yield which cases of a data set show the image of another case that no training is tested on for that."""
    told = {frozenset((leak.train_case, leak.test_case)) for leak in leaks}
    for pair in alike:
        # Data sets that share a download have its images in common.
        origins = {(datasets[case.dataset].folder, case.name) for case in (pair.first, pair.second)}
        if pair.first.dataset == dataset and len(origins) == 2 and frozenset((pair.first, pair.second)) not in told:
            yield f"{pair.first.id}: shows the same as {pair.second.id} (details agree by {pair.likeness:.2f} of 1)"


def with_survey(finding: Finding, *, describer: Describer) -> Finding:
    """Return a finding with what the names of the files of a raw data set have shown beside it.

    A file that is not there is told of once, by what its name has shown: the case that lacks it says no more.
    """
    folder = Path(finding.download).name
    seen = [survey.cases for survey in describer.surveys.values() if survey.folder == folder]
    problems = [problem for cases in seen for problem in cases.problems]
    notes = [note for cases in seen for note in cases.notes]
    told = {Path(problem.path) for problem in problems}
    own = (one for one in finding.problems if Path(one.path) not in told or Path(one.path).exists())
    return replace(finding, problems=(*problems, *own), notes=(*notes, *finding.notes))


def show_text(findings: Sequence[Finding], *, is_quick: bool, console: Console) -> None:
    """Print each problem, warning and note once, then a table by data set."""
    problems = list(dict.fromkeys(problem.line for finding in findings for problem in finding.problems))
    warnings = list(dict.fromkeys(warning for finding in findings for warning in finding.warnings))
    notes = _folded(list(dict.fromkeys(note for finding in findings for note in finding.notes)))
    lines = [*problems, *(f"warning: {line}" for line in warnings), *(f"note: {line}" for line in notes)]
    for line in lines:
        say(printable(line), console=console)
    columns = ("data set", "folder", "cases", "problems", "warnings", "notes")
    table = Table(*columns, box=None, padding=(0, 1), header_style="bold")
    for finding in findings:
        counts = (finding.num_cases, len(finding.problems), len(finding.warnings), len(finding.notes))
        # As Text, since brackets in the name of a folder are no markup.
        table.add_row(finding.dataset, Text(finding.download), *map(str, counts))
    print_whole(table, console=console)
    told = [f"{counted(len(problems), 'problem')}" if problems else "No problems"]
    told += [counted(len(warnings), "warning")] if warnings else []
    console.print(f"{', '.join(told)}{'. Only headers were read: without --quick every voxel is' * is_quick}.")


def _folded(notes: Sequence[str]) -> list[str]:
    """Return notes with those that say the same of many files as one."""
    files = defaultdict(list)
    for note in notes:
        file, _, words = note.partition(": ")
        files[words].append(file)
    return [f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {words}" for words, names in files.items()]


def show_json(findings: Sequence[Finding], *, console: Console) -> None:
    """Print all findings as one JSON list."""
    say(json.dumps([asdict(finding) for finding in findings], indent=1), console=console)
