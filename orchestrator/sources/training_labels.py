"""Whether a training's cases hold what it is to learn from, as far as that makes a run fail or futile."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.benchmark.checks.configurations import TWO_DIMENSIONS
from orchestrator.benchmark.definition import Case, LabelSet, Training
from orchestrator.configuration import listing
from orchestrator.images.problem import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingLabels:
    """What is missing in the label maps of one data set."""

    problems: tuple[Problem, ...]
    """Of trainings that cannot be planned."""
    warnings: tuple[str, ...]
    """Of trainings that would learn a structure from no case."""


def missing_labels(
    trainings: Sequence[Training],
    *,
    label_set_of: Callable[[str], LabelSet],
    labels_seen: Mapping[tuple[Case, str], frozenset[int]],
) -> MissingLabels:
    """Return what the label maps of trainings lack; trainings with cases that were not read say nothing.

    Parameters
    ----------
    trainings
        Those of a run, with those whose plans they take over.
    label_set_of
        Gives the label set of a name.
    labels_seen
        Labels in the label map of a case and label set.
    """
    empty: defaultdict[str, list[str]] = defaultdict(list)
    unlearned: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for training in trainings:
        cases, name = (*training.train, *training.val), training.label_set
        if any((case, name) not in labels_seen for case in cases):
            continue
        # Plans are made from training and validation cases, weights from training cases alone.
        if not any(labels_seen[case, name] for case in cases):
            empty[name].append(training.id)
            continue
        learned = {label for case in training.train for label in labels_seen[case, name]}
        for structure in label_set_of(name).structures:
            if structure.label not in learned:
                unlearned[name, structure.name].append(training.id)
    return MissingLabels(
        problems=tuple(
            Problem(
                path=listing(ids),
                found=f"no labelled voxel in the {name} masks of any case that is trained on",
                expected="at least one, without which nothing can be planned",
                advice="Check how these masks were exported; the notes name them.",
            )
            for name, ids in empty.items()
        ),
        warnings=tuple(
            f"{listing(ids)}: no voxel of {structure} in the {name} masks of any case that is trained on: it cannot be"
            " learned"
            for (name, structure), ids in unlearned.items()
        ),
    )


def flat_images(trainings: Sequence[Training], *, num_slices: Mapping[Case, int]) -> tuple[Problem, ...]:
    """Return which trainings have a network of three dimensions and no case of more than one slice.

    nnU-Net plans no such network for them. Trainings with cases that were not read say nothing.
    """
    flat: defaultdict[str, list[str]] = defaultdict(list)
    for training in trainings:
        is_flat = all(num_slices.get(case) == 1 for case in training.train)
        if is_flat and training.model.configuration != TWO_DIMENSIONS and not training.members:
            flat[training.model.name].append(training.id)
    return tuple(
        Problem(
            path=listing(ids),
            found=f"images of one slice each for model {name}, which is of three dimensions",
            expected=f"configuration {TWO_DIMENSIONS} for these, since nothing else can be planned",
            advice=f"Give the model `configuration: {TWO_DIMENSIONS}`, or train these data in a study of their own.",
        )
        for name, ids in flat.items()
    )
