"""Claims about which events are packed of a run, and how its zip is written."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.bundle.sealed_run import EVENTS, sealed_run
from orchestrator.bundle.collect import inputs_of
from orchestrator.bundle.seal import write_bundle
from orchestrator.errors import ConfigError, StorageError
from orchestrator.events import read_events
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.memory import MemoryStorage
from orchestrator.usage import stage_spans


def test_attempts_that_ended_with_their_driver_are_those_of_the_run_and_a_call_without_work_leaves_no_trace(tmp_path):
    request = sealed_run(tmp_path)
    storage = open_storage(request.output)
    of_run, start, epoch, end = EVENTS
    # The driver is killed after the second day; another goes on four days later.
    told = [*((1, one) for one in (of_run, start)), (2, epoch), *((6, one) for one in (of_run, start)), (7, end)]
    lines = [json.dumps({"time": f"2026-11-0{day}T10:00:00+00:00", **event}) for day, event in [*told, (8, of_run)]]
    storage.write_bytes("events/20261101T100000.000000-00000.jsonl", "\n".join(lines).encode())
    packed = read_events(MemoryStorage("bundle", files=inputs_of(request, storage)))
    spans = stage_spans(packed)
    assert spans == stage_spans(read_events(storage))
    assert [span.hours for span in spans] == [24, 24]
    assert packed[-1]["kind"] == "stage_finished"


def test_a_bundle_that_cannot_be_written_leaves_the_one_of_before(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("orchestrator.bundle.seal.derived_from", lambda _: SimpleNamespace(problems=(), files={}))
    monkeypatch.setattr("orchestrator.bundle.seal._crate", lambda *_: b"{}")
    request, target = sealed_run(tmp_path), tmp_path / "x.zip"
    target.write_bytes(b"the bundle of last week")

    def fill_the_disk(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fill_the_disk)
        with pytest.raises(StorageError, match="no space left to write it"):
            write_bundle(request, open_storage(request.output), target=target)
    assert target.read_bytes() == b"the bundle of last week"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "study", "x.zip"}
    with pytest.raises(ConfigError, match="a folder; expected the name of a zip"):
        write_bundle(request, open_storage(request.output), target=tmp_path)
