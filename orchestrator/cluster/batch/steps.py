"""Machines of a run that come together: a command starts one worker on each machine of the allocation around us."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.cluster.log_lines import last_words
from orchestrator.cluster.node_pool import Resources
from orchestrator.errors import ClusterError
from orchestrator.processes import end_group

END_S = 30.0


class StepWorkers:
    """They are there as long as this; no more can be asked for."""

    def __init__(self, command: Sequence[str], *, log: Path) -> None:
        """Start them; raises ClusterError if the command cannot be started."""
        self._log = log
        self._was_there = False
        try:
            with log.open("wb") as file:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                )
        except OSError as error:
            raise ClusterError(f"{' '.join(command)}: could not be started ({error})") from error

    def ask(self, missing: Mapping[Resources, int], *, present: Mapping[Resources, int]) -> None:
        """Raise ClusterError if machines are missing and none is left."""
        self._was_there = self._was_there or any(present.values())
        if self._process.poll() is not None and not any(present.values()) and any(missing.values()):
            when = "have ended" if self._was_there else "did not start"
            raise ClusterError(f"the machines of the allocation {when}: {last_words(self._log, num_lines=3)}")

    def waiting(self) -> Mapping[str, int]:
        """Return nothing: all are asked for at once."""
        return {}

    def close(self) -> None:
        """End them."""
        end_group(self._process, within_s=END_S)
