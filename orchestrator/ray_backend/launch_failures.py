"""Why machines that Ray's autoscaler asks a cloud for do not come: part of the one door to Ray."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ray._private import worker

from orchestrator.cluster.log_lines import GrowingFile

LASTS_S = 300.0
"""The autoscaler tries again within seconds: what it has not said for so long is over."""
SHOWN = 200
"""Characters of a reason, which can hold whole requests."""
# Its status names the kind of machine alone; its log has the cloud's words, such as InsufficientInstanceCapacity.
_FAILED = re.compile(
    r"Failed to launch (?P<number>\d+) nodes of type (?P<pool>[^\s:]+): "
    r"(?:Node Launch Exception \((?P<code>[^)\n]*)\): )?(?P<told>[^\n]*)\n"
)


def log_of_autoscaler() -> Path | None:
    """Return the log of the autoscaler of the Ray that this process is connected to; there only beside its head."""
    # Ray says it nowhere else; None where there is no connection.
    node = worker.global_worker.node
    return Path(node.get_logs_dir_path()) / "monitor.log" if node is not None else None


class LaunchFailures:
    """What a log has said from now on of machines that could not be started."""

    def __init__(self, log: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at the end of a log; None if there is none."""
        self._log = GrowingFile(log) if log is not None else None
        self._clock = clock
        self._found: dict[str, tuple[str, int, float]] = {}
        if self._log is not None:
            self._log.new_text()

    def recent(self) -> Mapping[str, int]:
        """Return how many machines of a pool could not be started, by its name and the reason."""
        if self._log is None:
            return {}
        now_s = self._clock()
        for found in _FAILED.finditer(self._log.new_text()):
            reason = ": ".join(part for part in (found["code"], found["told"].strip()) if part)
            self._found[found["pool"]] = (reason[:SHOWN], int(found["number"]), now_s)
        return {
            f"{pool}: {reason}": number
            for pool, (reason, number, told_s) in self._found.items()
            if now_s - told_s < LASTS_S
        }
