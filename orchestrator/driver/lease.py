"""One living driver for each output location: a second one refuses while the first lives, and succeeds it when dead.

Every driver of a location has a number, and a file of that number that only one process can have created. The driver
writes it anew now and then; others do not compare clocks, they watch whether it changes. Who takes over creates the
file of the next number, and a driver that finds such a file has been given up for dead and stops.
"""

import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType

from orchestrator.errors import ClusterError, ConfigError, IntegrityError, StorageError
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.storage.numbered_files import delete_before, last_number

HEARTBEAT_S = 5.0
"""Time between two signs of life."""
DEAD_AFTER_S = 30.0
"""Time without one after which a driver counts as dead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverRecord:
    """What a driver says about itself."""

    host: str
    """Name of its machine."""
    processes: str
    """Tells apart machines of one name, their starts and their process namespaces; empty where that is not known."""
    pid: int
    """Its process."""
    process_start: str
    """Tells apart processes that were given the same number; empty where that is not known."""
    mark: str
    """Made anew with every sign of life."""
    place: str = ""
    """Location that it drives, a folder without links; empty in what another version has written. Who copies a run
    that is at work copies this record, too."""
    is_released: bool = False
    """It has ended in good order."""
    remaining_s: float | None = None
    """What the run still needs, as it expects; None while it does not know."""

    @classmethod
    def of_this_process(cls, storage: Storage) -> "DriverRecord":
        """Return the record of the running process as the driver of a location."""
        return cls(
            host=socket.gethostname(),
            processes=_processes(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()),
            mark=uuid.uuid4().hex,
            place=_place(storage),
        )

    def is_at_work(self, storage: Storage) -> bool | None:
        """Whether the process still runs as the driver of a location; None where this process cannot see that."""
        if not self.processes or (self.host, self.processes) != (socket.gethostname(), _processes()):
            return None
        if _process_start(self.pid) != self.process_start:
            return False
        # One folder may have several names, as with mounts: only marks that stay as they are tell that it is another.
        return True if self.place in ("", _place(storage)) else None


class Lease:
    """The right to drive a run, held while the context lasts."""

    def __init__(
        self,
        storage: Storage,
        *,
        note: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
        heartbeat_s: float = HEARTBEAT_S,
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        """Prepare to take the lease.

        Parameters
        ----------
        storage
            Output location of the run.
        note
            Is told when there is something to wait for.
        sleep
            Waits for some seconds.
        heartbeat_s, dead_after_s
            Times between signs of life, and without one until a driver counts as dead.
        """
        self._storage = storage
        self._note = note
        self._sleep = sleep
        self._heartbeat_s = heartbeat_s
        self._dead_after_s = dead_after_s
        self._record = DriverRecord.of_this_process(storage)
        self._remaining_s: float | None = None
        self._number = 0
        self._ended = threading.Event()
        self._why_lost = ""
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        """Take the lease; raises ConfigError if another driver lives."""
        while True:
            last = last_number(self._storage, run_paths.DRIVERS)
            if last:
                self._wait_until_dead(last)
            self._number = last + 1
            if self._storage.create_exclusive(run_paths.driver(self._number), self._encoded()):
                break
        delete_before(self._storage, run_paths.DRIVERS, number=self._number)
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lease back."""
        self._ended.set()
        self._thread.join()
        with suppress(StorageError):
            self._why_lost = self._why_lost or self._reason_to_stop()
            if not self._why_lost:
                self._record = replace(self._record, is_released=True, remaining_s=None)
                self._storage.write_bytes(run_paths.driver(self._number), self._encoded())

    def tell_remaining(self, seconds: float) -> None:
        """Let the next sign of life say how long the run still needs; infinite where it cannot go on as things are."""
        self._remaining_s = seconds if math.isfinite(seconds) else None

    def check(self) -> None:
        """Raise ClusterError if another driver has taken over, or the location has gone, as the last look has shown."""
        if self._why_lost:
            raise ClusterError(f"{self._storage.location}: {self._why_lost}")

    def look(self) -> None:
        """Look at once, and raise as `check`."""
        with suppress(StorageError):
            self._why_lost = self._why_lost or self._reason_to_stop()
        self.check()

    def _wait_until_dead(self, number: int) -> None:
        """Return when the driver of this number has ended; raises ConfigError if it shows that it lives."""
        marks: set[str] = set()
        for step in range(1 + math.ceil(self._dead_after_s / (self._heartbeat_s / 2))):
            if step:
                self._sleep(self._heartbeat_s / 2)
            who = "another driver"
            # What cannot be read now may be read the next time; a driver is not dead for that.
            with suppress(StorageError, IntegrityError):
                record = _read(self._storage, number)
                if record is None or record.is_released:
                    return
                is_at_work = record.is_at_work(self._storage)
                if is_at_work is False:
                    return
                who = f"process {record.pid} on {record.host}"
                marks.add(record.mark)
                if is_at_work or len(marks) > 1:
                    raise ConfigError(
                        f"{self._storage.location}: a driver is at work there ({who}); expected none. Wait for its "
                        "end, stop it, or choose another --output"
                    )
            if not step:
                self._note(
                    f"{self._storage.location}: looking for signs of life of {who}, at most {self._dead_after_s:g} s"
                )

    def _encoded(self) -> bytes:
        return json.dumps(asdict(self._record), indent=1).encode()

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat_s):
            # A storage that fails for a while is not the end: nobody can take over meanwhile either.
            with suppress(StorageError):
                self._why_lost = self._why_lost or self._reason_to_stop()
                if self._why_lost:
                    return
                self._record = replace(self._record, mark=uuid.uuid4().hex, remaining_s=self._remaining_s)
                self._storage.write_bytes(run_paths.driver(self._number), self._encoded())

    def _reason_to_stop(self) -> str:
        """Return why this driver must stop, or nothing."""
        if last_number(self._storage, run_paths.DRIVERS) > self._number:
            return (
                f"another driver has taken over, since this one gave no sign of life for {self._dead_after_s:g} s. "
                "What is done is kept; follow the other one"
            )
        # What is missing would be made again otherwise, in an empty folder all of it.
        if not self._storage.exists(run_paths.driver(self._number)):
            return (
                f"{run_paths.driver(self._number)} is gone, by which this driver is known: the folder was moved, "
                "removed or unmounted while it was at work. Give the same command with the place where it is now"
            )
        return ""


def latest_driver(storage: Storage) -> DriverRecord | None:
    """Return what the latest driver of a location says about itself; None if there has been none."""
    return _read(storage, last_number(storage, run_paths.DRIVERS))


def _read(storage: Storage, number: int) -> DriverRecord | None:
    """Return what a driver says, None if its file is gone; raises StorageError or IntegrityError if unreadable."""
    key = run_paths.driver(number)
    if not storage.exists(key):
        return None
    record = read_json(storage, key, {"pid": int} | dict.fromkeys(("host", "processes", "process_start", "mark"), str))
    # A driver of a later version may say more, and lives all the same.
    known = {field.name: record[field.name] for field in fields(DriverRecord) if field.name in record}
    if not isinstance(seconds := known.get("remaining_s"), int | float) or not math.isfinite(seconds):
        known["remaining_s"] = None
    try:
        return DriverRecord(**known)
    except TypeError as error:
        raise IntegrityError(
            f"{storage.location}/{key}: not what a driver says of itself ({error}); remove it if no driver is at work"
        ) from error


def _place(storage: Storage) -> str:
    return storage.location if storage.is_remote else os.path.realpath(storage.location)


def _processes() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """Return when a process has started, in the kernel's count; empty if it does not run or that is not known."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in {"Z", "X"} else numbers[18]
