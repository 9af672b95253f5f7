"""What goes with a model that is handed out: what it is, what it was trained on, how well it does, how to use it."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.inference.models import OpenModel
from orchestrator.report.texts.escaping import table_line
from orchestrator.results.records import ResultRow
from orchestrator.statistics.intervals import mean_with_interval

_LIMITS = """\
For research. It is no medical device, and no decision about a patient may rest on it. It has seen images like those
named above: other scanners, contrast, ages, parts of the body or diseases may give wrong labels without any warning.
Compare its labels with your own on your own images before you use them.
"""
_DEFINITIONS = """\
DSC is the Dice similarity coefficient. NSD is the normalised surface Dice: the share of both surfaces that lies within
the tolerance of the other one. SD is that of the sample. The interval is a studentised bootstrap of the mean over the
cases, made to hold the true one in 95 of 100 such evaluations; there is none for fewer than six cases, or if all are
equal. A case where neither mask holds the structure counts nowhere, one where a single mask does counts as 0.
"""
_CITATION = """\
Isensee F. et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Nature
Methods 18, 203-211 (2021). And the owners of the data: see the terms of each data set.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What a card says beside what the model itself tells."""

    dataset: str
    """`DatasetNNN_Name` under which nnU-Net installs it."""
    num_train_cases: dict[str, int]
    """By data set."""
    preset: str
    seed: int
    licences: Mapping[str, str]
    """Of data sets, by their names, as far as they are known."""
    phantoms: bool
    rows: Sequence[ResultRow]
    """Of its training, perhaps none."""


def model_card(found: OpenModel, facts: CardFacts) -> str:
    """Return the card as Markdown; it names no case, no person and no place on a machine."""
    plan, settings = found.model.plan, found.settings
    structures = ", ".join(f"{name} ({label})" for name, label in plan.dataset_json["labels"].items())
    channels = ", ".join(map(str, plan.channel_names.values()))
    spacing = " x ".join(f"{step:g}" for step in plan.configuration_manager.spacing)
    trained = ", ".join(f"{name}: {num}" for name, num in sorted(facts.num_train_cases.items()))
    lines = [
        f"# {found.name}",
        "",
        f"An nnU-Net of the configuration {plan.configuration}, trained by {found.model.trainer}.",
        "",
        "| | |",
        "|---|---|",
        table_line(["structures (labels)", structures]),
        table_line(["channels", channels]),
        f"| training cases | {trained}{' (generated phantoms, no patients)' if facts.phantoms else ''} |",
        f"| spacing of the network (mm) | {spacing} |",
        f"| preset, seed | {facts.preset}, {facts.seed} |",
        *_provenance(facts.rows),
        "",
        "## Scores",
        "",
        *_scores(facts.rows),
        "",
        _DEFINITIONS,
        "## Use",
        "",
        _LIMITS,
        "```",
        f"nnUNetv2_install_pretrained_model_from_zip {found.name}.zip",
        f"nnUNetv2_predict -d {facts.dataset} -c {plan.configuration} -f 0 -i IMAGES -o LABELS{_flags(found)}",
        f"orchestrator predict IMAGES --model {found.name}.zip --output LABELS",
        "```",
        "",
        *_orientation(found),
        f"The scores are of predictions with a step of {settings.tile_step_size:g} of the window, "
        f"{'averaged over mirrored images' if settings.mirrors else 'without mirroring'}.",
        "",
        "## Licences and citation",
        "",
        "The weights are made from the data above; the terms of their owners apply to what may be done with them.",
        *_licences(facts),
        _CITATION,
    ]
    return "\n".join(lines)


def _licences(facts: CardFacts) -> list[str]:
    if facts.phantoms:
        return []
    named = [f"- {name}: {facts.licences.get(name) or 'not known here'}" for name in sorted(facts.num_train_cases)]
    return ["", *named, ""]


def _orientation(found: OpenModel) -> list[str]:
    if found.settings.orientation is None:
        return []
    return [
        "Its training images had axes to the left, the back and the head (LPS). `orchestrator predict` turns any image",
        "so, and the label map back; `nnUNetv2_predict` takes axes as a file has them: give it images with these axes,",
        "or it mistakes left for right.",
        "",
    ]


def _flags(found: OpenModel) -> str:
    trainer, step = found.model.trainer, found.settings.tile_step_size
    trained_by = "" if trainer == "nnUNetTrainer" else f" -tr {trainer}"
    return trained_by + ("" if step == 0.5 else f" -step_size {step:g}")


def _provenance(rows: Sequence[ResultRow]) -> list[str]:
    if not rows:
        return []
    found = rows[0].provenance
    return [
        f"| hours of training | {found.train_elapsed_s / 3600:.2f} |",
        f"| versions | `{found.versions}` |",
        f"| cases left out of the split by the preset | {'yes' if found.is_capped else 'no'} |",
        f"| SHA-256 of the data | {found.data_sha256} |",
        f"| SHA-256 of the split | {found.split_sha256} |",
        f"| SHA-256 of the plans | {found.plan_sha256} |",
        f"| SHA-256 of the checkpoint | {found.checkpoint_sha256} |",
    ]


def _scores(rows: Sequence[ResultRow]) -> list[str]:
    if not rows:
        return ["None: the run has not scored it."]
    groups = dict.fromkeys((row.evaluation_set, row.score.structure, row.score.tolerance_mm) for row in rows)
    lines = [
        "| set | structure | DSC: n, mean, SD, interval | tolerance (mm) | NSD: n, mean, SD, interval |",
        "|---|---|---|---|---|",
    ]
    for name, structure, tolerance_mm in groups:
        own = [row for row in rows if (row.evaluation_set, row.score.structure) == (name, structure)]
        dsc, nsd = (_statistics((getattr(row.score, metric), row) for row in own) for metric in ("dsc", "nsd"))
        lines.append(table_line([name, structure, dsc, f"{tolerance_mm:g}", nsd]))
    return lines


def _statistics(values: Iterable[tuple[float, ResultRow]]) -> str:
    # Cases of two data sets may have equal names.
    finite = [(value, (row.dataset, row.case)) for value, row in values if math.isfinite(value)]
    if not finite:
        return "0"
    numbers = [value for value, _ in finite]
    found = mean_with_interval(numbers, [case for _, case in finite], limits=(0.0, 1.0))
    spread = f"{statistics.stdev(numbers):.3f}" if numbers[1:] else "-"
    interval = f", {found.low:.3f} to {found.high:.3f}" if found.has_interval else ""
    return f"{len(numbers)}, {found.mean:.3f}, {spread}{interval}"
