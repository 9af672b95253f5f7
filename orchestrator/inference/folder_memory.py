"""What predicting the cases of a folder takes of the memory, and which of them may overlap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.images.memory import available_bytes

if TYPE_CHECKING:
    from orchestrator.training.nnunet.ensembles.averaged_prediction import CaseBytes


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderMemory:
    """Decided before the first case, so that what was said holds to the end."""

    num_left: int
    """Cases that are not predicted yet."""
    alone: tuple[int, ...]
    """Bytes that the process has in memory for each case at most, if it is the only one."""
    overlaps: tuple[bool, ...]
    """Whether each case is predicted while the next is read and the one before is written."""
    most_bytes: int
    """What the process has in memory at most."""
    largest: int | None
    """Number of the case for which it has that; None if nothing is known of any."""


def plan_memory(
    cases: Sequence["CaseBytes | None"], *, num_left: int, own_bytes: int, most_bytes: float, is_alone: bool
) -> FolderMemory:
    """Return what cases take, one after the other.

    Parameters
    ----------
    cases
        What each takes; None if it is not known, or nothing.
    num_left
        Of them, that are not predicted yet.
    own_bytes
        That the process has in memory already.
    most_bytes
        That it may have.
    is_alone
        Whether each has a process of its own.
    """
    available = available_bytes()
    room = most_bytes if available is None else min(most_bytes, available)
    alone = [own_bytes + (0 if case is None else case.most) for case in cases]
    together = list(alone)
    for number in range(1, len(cases)):
        before, case = cases[number - 1], cases[number]
        together[number] += 0 if before is None else before.writing
        together[number - 1] += 0 if case is None else case.preparing
    overlaps = tuple(not is_alone and num_bytes <= room for num_bytes in together)
    taken = [both if overlap else one for both, one, overlap in zip(together, alone, overlaps, strict=True)]
    known = [number for number, case in enumerate(cases) if case is not None]
    largest = max(known, key=taken.__getitem__, default=None)
    return FolderMemory(
        num_left=num_left,
        alone=tuple(alone),
        overlaps=overlaps,
        most_bytes=own_bytes if largest is None else taken[largest],
        largest=largest,
    )
