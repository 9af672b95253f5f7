"""Patch files are made from other files: one that is damaged is made again instead of failing what reads it."""

from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.benchmark.definition import Case
from orchestrator.errors import IntegrityError
from orchestrator.patches.reader import PatchFile
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import Storage


def whole_patches(
    storage: Storage,
    cases: Iterable[Case],
    *,
    training_id: str,
    write_again: Callable[[Case], None],
    note: Callable[[str], None],
) -> tuple[dict[Case, Path], int]:
    """Compare every chunk of the patch files of a training with its checksum and write damaged ones again.

    Parameters
    ----------
    storage
        Output location of the run.
    cases
        Those of the training.
    training_id
        The training.
    write_again
        Preprocesses one case.
    note
        Is told of every file that is written again.

    Returns
    -------
    tuple
        Local path of each file, and the number of files that were damaged or missing.

    Raises
    ------
    IntegrityError
        If a file is damaged right after it was written.
    """
    paths, num_repaired = {}, 0
    for case in cases:
        key = run_paths.patches(training_id, case)
        try:
            paths[case] = _verified(storage, key)
        except IntegrityError as error:
            note(f"{error}: {case.id} is preprocessed again")
            write_again(case)
            paths[case] = _verified(storage, key)
            num_repaired += 1
    return paths, num_repaired


def _verified(storage: Storage, key: str) -> Path:
    if not storage.exists(key):
        raise IntegrityError(f"{storage.location}/{key}: no such patch file")
    path = storage.fetch(key)
    PatchFile.open(path).verify()
    return path
