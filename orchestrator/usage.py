"""What a run took of its machines, from its events: hours of stages and GPUs, and how busy the machines were."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.events import OF_ATTEMPTS
from orchestrator.storage.json_values import JsonMapping

_BUSY = "busy"
"""What a machine is that does something; `MachineState` has the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpan:
    """An attempt at a stage, from its start to its end."""

    stage: str
    kind: str
    start: datetime
    end: datetime
    gpus: float
    """Share of a machine's GPUs."""
    gpu_kind: str

    @property
    def hours(self) -> float:
        """How long it took."""
        return (self.end - self.start).total_seconds() / 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class StageHours:
    """What all stages of a kind took."""

    kind: str
    num_attempts: int
    hours: float
    """Of all attempts, side by side or not."""
    gpu_hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineHours:
    """How long machines of one size were there, and how long something ran on them."""

    size: str
    hours: float
    """Added up over all machines of that size."""
    busy_hours: float

    @property
    def share(self) -> float:
        """Which part of the time something ran."""
        return self.busy_hours / self.hours if self.hours else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the GPU hours of a run cost by a price list."""

    low_usd: float
    high_usd: float
    """Another number than the least where GPUs of a kind have several prices."""
    prices_date: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a run took of its machines, all calls together."""

    elapsed_hours: float
    """From the start of each call to its last event."""
    stages: tuple[StageHours, ...]
    gpu_hours: Mapping[str, float]
    """By kind of GPU; empty without GPUs."""
    machines: tuple[MachineHours, ...]
    """Empty where nothing tells which were there."""
    held_gpu_hours: float
    """In which machines held GPUs; 0 where that is not told."""

    @property
    def gpu_share(self) -> float | None:
        """Which part of the GPUs that were held was taken; None where that is not known."""
        return sum(self.gpu_hours.values()) / self.held_gpu_hours if self.held_gpu_hours else None


def usage_of(events: Sequence[JsonMapping]) -> Usage | None:
    """Return what a run took; None if nothing has run."""
    spans = stage_spans(events)
    if not spans:
        return None
    kinds = dict.fromkeys(span.kind for span in spans)
    of_kind = {kind: [span for span in spans if span.kind == kind] for kind in kinds}
    return Usage(
        elapsed_hours=sum((end - start for start, end in _calls(events)), timedelta()).total_seconds() / 3600,
        stages=tuple(
            StageHours(
                kind=kind,
                num_attempts=len(own),
                hours=sum(span.hours for span in own),
                gpu_hours=sum(span.hours * span.gpus for span in own),
            )
            for kind, own in of_kind.items()
        ),
        gpu_hours=gpu_hours(spans),
        machines=_machines(events),
        held_gpu_hours=sum(hours * event.get("gpus", 0) for event, hours in _seen(events)),
    )


def gpu_hours(spans: Sequence[StageSpan]) -> dict[str, float]:
    """Add up what stages took of each kind of GPU."""
    hours: dict[str, float] = {}
    for span in spans:
        if span.gpus:
            hours[span.gpu_kind] = hours.get(span.gpu_kind, 0.0) + span.hours * span.gpus
    return hours


def stage_spans(events: Sequence[JsonMapping]) -> list[StageSpan]:
    """Return every attempt that drivers have told of; what a killed one left open ends with its last event.

    `events` are in the order of `read_events`.
    """
    spans: list[StageSpan] = []
    open_stages: dict[str, tuple[datetime, JsonMapping]] = {}
    latest: datetime | None = None

    def close(stages: Sequence[str], end: datetime) -> None:
        for stage in stages:
            start, event = open_stages.pop(stage)
            kind, gpu_kind = str(event["stage_kind"]), str(event.get("gpu_kind") or "")
            gpus = float(event.get("gpus") or 0)
            spans.append(StageSpan(stage=stage, kind=kind, start=start, end=end, gpus=gpus, gpu_kind=gpu_kind))

    for event, now in _told(events):
        if event["kind"] == "run_started":
            close(list(open_stages), latest or now)
        elif event["kind"] == "stage_started":
            open_stages[str(event["stage"])] = (now, event)
        elif event["kind"] in {"stage_finished", "stage_failed"} and event["stage"] in open_stages:
            close([str(event["stage"])], now)
        latest = now
    if latest is not None:
        close(list(open_stages), latest)
    return spans


def _told(events: Sequence[JsonMapping]) -> Iterator[tuple[JsonMapping, datetime]]:
    """Yield what drivers have told, and when. What trainings have written themselves is in no order with that."""
    for event in events:
        if event["kind"] not in OF_ATTEMPTS:
            yield event, datetime.fromisoformat(str(event["time"]))


def _calls(events: Sequence[JsonMapping]) -> Iterator[tuple[datetime, datetime]]:
    """Yield when each call of a run began, and when its driver told something last."""
    start: datetime | None = None
    latest: datetime | None = None
    for event, now in _told(events):
        if event["kind"] == "run_started" and start is not None and latest is not None:
            yield start, latest
            start = None
        start, latest = start or now, now
    if start is not None and latest is not None:
        yield start, latest


def _seen(events: Sequence[JsonMapping]) -> Iterator[tuple[JsonMapping, float]]:
    """Yield each event that tells which machines are there, and for how many hours that was so."""
    known: tuple[JsonMapping, datetime] | None = None
    latest: datetime | None = None
    for event, now in _told(events):
        ends = {"machines_seen": now, "run_started": latest or now, "run_finished": now}
        if known is not None and event["kind"] in ends:
            yield known[0], (ends[event["kind"]] - known[1]).total_seconds() / 3600
            known = None
        if event["kind"] == "machines_seen":
            known = event, now
        latest = now
    if known is not None and latest is not None:
        yield known[0], (latest - known[1]).total_seconds() / 3600


def _machines(events: Sequence[JsonMapping]) -> tuple[MachineHours, ...]:
    hours: dict[str, list[float]] = {}
    for event, elapsed_hours in _seen(events):
        for state, sizes in event["machines"].items():
            for size, number in sizes.items():
                there = hours.setdefault(str(size), [0.0, 0.0])
                there[0] += number * elapsed_hours
                there[1] += number * elapsed_hours * (state == _BUSY)
    return tuple(MachineHours(size=size, hours=all_, busy_hours=busy) for size, (all_, busy) in sorted(hours.items()))
