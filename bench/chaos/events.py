"""What the events of a run under way say of the moment: what is running, how far it is."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.storage import run_paths
from orchestrator.storage.interface import TEMPORARY_PREFIX

Event = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class RunEvents:
    """Events of one run, looked at again and again: only files that have changed are read."""

    output: Path
    _read: dict[Path, tuple[tuple[int, int], list[Event]]] = field(default_factory=dict)

    def of_drivers(self) -> list[Event]:
        """Return the events of all drivers in their order."""
        return self._gathered(run_paths.EVENTS)

    def of_trainings(self) -> list[Event]:
        """Return the events of all attempts in the order of their time; each has the name of its attempt."""
        events = self._gathered(f"{run_paths.EVENTS}/{run_paths.TRAINING_EVENTS}")
        return sorted(events, key=lambda event: str(event["time"]))

    def stages_under_way(self) -> tuple[str, ...]:
        """Return the kinds of the stages that the latest driver has started and not seen the end of."""
        events = self.of_drivers()
        starts = [index for index, event in enumerate(events) if event["kind"] == "run_started"]
        running: dict[str, str] = {}
        for event in events[starts[-1] :] if starts else []:
            match event["kind"]:
                case "stage_started":
                    running[event["stage"]] = event["stage_kind"]
                case "stage_finished" | "stage_failed":
                    running.pop(event["stage"], None)
        return tuple(sorted(set(running.values())))

    def trainings_under_way(self, *, since_s: float) -> set[str]:
        """Return the trainings at which an attempt has begun after that time, in seconds since 1970, and not ended."""
        running: dict[str, str] = {}
        for event in self.of_trainings():
            if event["kind"] == "attempt_started" and seconds(event) > since_s:
                running[event["attempt"]] = event["training"]
            elif event["kind"] == "attempt_ended":
                running.pop(event["attempt"], None)
        return set(running.values())

    def finished_stages(self) -> dict[str, float]:
        """Return the stages whose end a driver has seen, by id, and how many seconds each has taken."""
        return {e["stage"]: float(e["elapsed_s"]) for e in self.of_drivers() if e["kind"] == "stage_finished"}

    def driven_s(self) -> float:
        """Return for how long drivers have been at work, all together."""
        times: dict[str, list[float]] = {}
        for event in self.of_drivers():
            times.setdefault(event["attempt"], []).append(seconds(event))
        return sum(max(of_one) - min(of_one) for of_one in times.values())

    def is_done(self) -> bool:
        """Whether the latest driver has finished all trainings."""
        events = [event for event in self.of_drivers() if event["kind"] in {"run_started", "run_finished"}]
        if not events or events[-1]["kind"] != "run_finished":
            return False
        return bool(events[-1]["trainings_done"] == len(events[-2]["trainings"]))

    def _gathered(self, folder: str) -> list[Event]:
        paths = sorted((self.output / folder).glob("*.jsonl"))
        return [event for path in paths if not path.name.startswith(TEMPORARY_PREFIX) for event in self._of(path)]

    def _of(self, path: Path) -> Iterable[Event]:
        status = path.stat()
        version = (status.st_mtime_ns, status.st_size)
        if self._read.get(path, (None,))[0] != version:
            # The name without the number of the segment tells attempts apart.
            attempt = path.stem.rpartition("-")[0]
            events = [json.loads(line) | {"attempt": attempt} for line in path.read_text().splitlines()]
            self._read[path] = version, events
        return self._read[path][1]


def seconds(event: Event) -> float:
    """Return the time of an event in seconds since 1970."""
    return datetime.fromisoformat(event["time"]).timestamp()
