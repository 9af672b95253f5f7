"""Patch files are made from other files: one that is damaged is made again instead of failing what reads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.benchmark.definition import Case
from orchestrator.errors import IntegrityError, StorageError
from orchestrator.patches.record import PatchRecord
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPatches:
    """The patch files of one training, and how one of them is made again."""

    storage: Storage
    """Output location of the run."""
    training_id: str
    cases: Sequence[Case]
    """Those that it trains on and those that it is monitored on."""
    write_again: Callable[[Case], None]
    """Preprocesses one case."""

    def repair(self, *, note: Callable[[str], None]) -> int:
        """Compare every file with its record and its checksums, and write damaged or missing ones again.

        Returns how many those were, each told to `note`. Raises IntegrityError if a file is damaged right after it was
        written, and StorageError if what one is made of cannot be read.
        """
        num_repaired = 0
        for case in self.cases:
            try:
                self._check(case)
            except IntegrityError as error:
                note(f"{error}: {case.id} is preprocessed again")
                self._write_again(case)
                self._check(case)
                num_repaired += 1
        return num_repaired

    def _write_again(self, case: Case) -> None:
        try:
            self.write_again(case)
        except StorageError:
            # What it is made of is lost as well: without its record the driver sees which stages to carry out again.
            self.storage.delete(run_paths.record_of_patches(run_paths.patches(self.training_id, case)))
            raise

    def records(self) -> dict[str, PatchRecord]:
        """Return what each file must be, by its key in the storage."""
        keys = (run_paths.patches(self.training_id, case) for case in self.cases)
        return {key: PatchRecord.of_key(self.storage, key) for key in keys}

    def _check(self, case: Case) -> None:
        key = run_paths.patches(self.training_id, case)
        PatchRecord.of_key(self.storage, key).verify(self.storage, key)
