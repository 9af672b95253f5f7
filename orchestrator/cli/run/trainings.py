"""Which trainings a run would carry out, without starting any."""

import json
from itertools import accumulate

from rich.console import Console
from rich.table import Table

from orchestrator.benchmark.definition import VALIDATION, Training
from orchestrator.benchmark.leaks import leak_lines
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.trainings.ensembles import fitted_trainings
from orchestrator.cli.console import print_whole, say
from orchestrator.configuration import counted
from orchestrator.driver.before_start import training_hours
from orchestrator.driver.looks import plan_of
from orchestrator.driver.request import RunRequest


def show_trainings(request: RunRequest, *, console: Console, as_json: bool) -> None:
    """Print the trainings that would be carried out."""
    rows = [_describe(training, request.preset) for training in request.trainings]
    if as_json:
        say(json.dumps(rows, indent=1), console=console)
        return
    facets = dict.fromkeys(name for training in request.trainings for name in training.facets)
    names = ("id", *facets, "fold")
    table = Table(*names, "train", "val", "test", "hours", box=None, padding=(0, 1), header_style="bold")
    for row in rows:
        hours = f"{row['expected_hours']:.3g}"
        numbers = (row["num_train_cases"], row["num_val_cases"], row["num_test_cases"])
        table.add_row(*(str(row.get(name, "")) for name in names), *map(str, numbers), hours)
    print_whole(table, console=console)
    fitted = fitted_trainings(request.trainings)
    num_ensembles = sum(bool(training.members) for training in request.trainings)
    averaged = f" and {counted(num_ensembles, 'ensemble')} of them" if num_ensembles else ""
    total = training_hours(request)
    unit = "CPU-core" if request.preset.is_for_cpus else "A100"
    console.print(
        f"{counted(len(fitted), 'training')}{averaged}, about {total:.3g} {unit} hours of training with preset "
        f"{request.preset.name}."
    )
    if request.until_decided:
        sizes = ", ".join(map(str, accumulate(map(len, plan_of(request).looks))))
        line = f"Looks at {sizes} compared trainings; after each, those are left out that no question needs any more."
        say(line, console=console)
    presets = {training.model.name: request.preset.changed_by(training.model.changes) for training in fitted}
    for name, preset in presets.items():
        for what in preset.without_effect:
            line = f"note: {name}: {what} has no effect: it is trained {counted(preset.num_epochs, 'epoch')}"
            say(line, console=console)
    for line in leak_lines(request.study.patient_leaks(request.trainings)):
        say(f"note: {line}", console=console)


def _describe(training: Training, preset: Preset) -> dict[str, object]:
    own = preset.changed_by(training.model.changes)
    tests = [evaluation for evaluation in training.evaluation_sets if evaluation.name != VALIDATION]
    return {
        "id": training.id,
        **training.facets,
        "fold": training.fold,
        "configuration": training.model.configuration,
        "num_train_cases": len(training.train),
        "num_val_cases": len(training.val),
        "num_test_cases": sum(len(evaluation.cases) for evaluation in tests),
        "expected_hours": 0.0 if training.members else round(own.expected_training_s / 3600, 4),
        **({"members": [member.id for member in training.members]} if training.members else {}),
    }
