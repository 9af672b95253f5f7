"""Patients and images that stand on both sides of a split."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.benchmark.definition import Case, Training

_KEPT = "The splits of the study are kept."
NUM_LINES = 10
"""Of leaks of one kind that are told each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlikeCases:
    """Two cases whose images show the same."""

    first: Case
    second: Case
    likeness: float
    """How well their details agree, up to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatientLeak:
    """A patient who is in the training and in the evaluated cases of one training, by two scans or by one twice."""

    train_case: Case
    test_case: Case
    training_ids: tuple[str, ...]
    likeness: float | None = None
    """Of both images, where their voxels tell it; None where the study says that it is one patient."""
    is_one_image: bool = False
    """Whether both are the same image of the study, maybe below two names of its data set."""

    @property
    def line(self) -> str:
        """All of it in one sentence."""
        if self.is_one_image:
            return f"{self.test_case.id} is trained on and scored in {', '.join(self.training_ids)}. {_KEPT}"
        if self.likeness is None:
            return (
                f"{self.train_case.name} and {self.test_case.name} are scans of one patient: the first is trained on "
                f"and the second scored in {', '.join(self.training_ids)}. {_KEPT}"
            )
        return (
            f"{self.train_case.id} and {self.test_case.id} show the same image, or one patient in the same place, as "
            f"their voxels tell (details agree by {self.likeness:.2f} of 1): the first is trained on and the second "
            f"scored in {', '.join(self.training_ids)}. Nothing was left out for that."
        )


class CaseUses:
    """Which trainings train on a case, and which score it: thousands of trainings are gone through once."""

    def __init__(self, trainings: Iterable[Training]) -> None:
        self._trained: dict[Case, list[str]] = {}
        self._tested: dict[Case, set[str]] = {}
        for training in trainings:
            for case in dict.fromkeys(training.train):
                self._trained.setdefault(case, []).append(training.id)
            for evaluation in training.evaluation_sets:
                for case in evaluation.cases:
                    self._tested.setdefault(case, set()).add(training.id)

    def leaking(self, *, trained: Case, tested: Case) -> tuple[str, ...]:
        """Return the ids of those that train on one case and test on the other."""
        testing = self._tested.get(tested, ())
        return tuple(name for name in self._trained.get(trained, ()) if name in testing)


def leak_lines(leaks: Sequence[PatientLeak], *, most: int | None = NUM_LINES) -> Iterator[str]:
    """Yield a line for each patient or image on both sides of a split; of those that nobody has listed, `most`."""
    yield from (leak.line for leak in leaks if leak.likeness is None and not leak.is_one_image)
    same, alike = ([leak for leak in leaks if leak.is_one_image], [leak for leak in leaks if leak.likeness is not None])
    for found, words in (
        (same, "cases are trained on and scored"),
        (alike, "pairs of images on both sides show the same"),
    ):
        yield from first_lines([leak.line for leak in found], most=most, words=words)


def first_lines(lines: Sequence[str], *, most: int | None, words: str, where: str = "") -> Iterator[str]:
    """Yield the first lines, and how many further there are; all of them if `most` is None."""
    yield from lines[:most]
    if most is not None and len(lines) > most:
        yield f"{where}{len(lines) - most} further {words}."


def same_image_leaks(trainings: Sequence[Training], *, image_of: Callable[[Case], Hashable]) -> tuple[PatientLeak, ...]:
    """Return which trainings are tested on images that they are trained on.

    Parameters
    ----------
    trainings
        Whose cases are compared.
    image_of
        Equal for cases of one image.
    """
    found: dict[tuple[Case, Case], list[str]] = {}
    for training in trainings:
        trained = {image_of(case): case for case in training.train}
        tested = dict.fromkeys(case for evaluation in training.evaluation_sets for case in evaluation.cases)
        for case in tested:
            if (same := trained.get(image_of(case))) is not None:
                found.setdefault((same, case), []).append(training.id)
    return tuple(
        PatientLeak(train_case=first, test_case=second, training_ids=tuple(ids), is_one_image=True)
        for (first, second), ids in found.items()
    )


def alike_leaks(
    alike: Iterable[AlikeCases], trainings: Sequence[Training], *, declared: Iterable[PatientLeak]
) -> tuple[PatientLeak, ...]:
    """Return which trainings train on one and test on the other of two images that show the same.

    What is declared to be one patient is left out: it is told already.
    """
    known = {(leak.train_case, leak.test_case) for leak in declared}
    uses, leaks = CaseUses(trainings), []
    for pair in alike:
        for trained, tested in ((pair.first, pair.second), (pair.second, pair.first)):
            touched = uses.leaking(trained=trained, tested=tested)
            if touched and (trained, tested) not in known:
                leaks.append(
                    PatientLeak(train_case=trained, test_case=tested, training_ids=touched, likeness=pair.likeness)
                )
    return tuple(leaks)
