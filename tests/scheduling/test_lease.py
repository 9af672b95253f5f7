"""Claims about the one living driver of an output location."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict, replace

import pytest

from orchestrator.driver.lease import DriverRecord, Lease
from orchestrator.errors import ClusterError, ConfigError, StorageError
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

ELSEWHERE = DriverRecord(host="another", processes="another", pid=1, process_start="1", mark="first")
HOLD = """
import sys, time
from orchestrator.driver.lease import Lease
from orchestrator.storage.filesystem import open_storage
with Lease(open_storage(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def write(storage, number, record):
    storage.write_bytes(run_paths.driver(number), json.dumps(asdict(record)).encode())


def drivers(storage):
    return storage.list_keys(run_paths.DRIVERS)


def test_a_second_driver_refuses_while_the_first_lives_and_goes_on_after_it(storage):
    with Lease(storage):
        with pytest.raises(ConfigError, match=rf"a driver is at work there \(process {os.getpid()} on "):
            Lease(storage).__enter__()
        assert drivers(storage) == [run_paths.driver(1)]
    with Lease(storage):
        assert drivers(storage) == [run_paths.driver(2)]


def test_a_killed_driver_of_this_machine_is_succeeded_at_once(storage):
    command = [sys.executable, "-c", HOLD, storage.location]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {process.pid}"):
            Lease(storage).__enter__()
        process.send_signal(signal.SIGKILL)
        # It stays as a zombie until it is waited for, and does not count as alive.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        waits = []
        with Lease(storage, sleep=waits.append):
            assert waits == []


def test_a_copy_of_a_run_that_is_at_work_is_not_at_work_itself(tmp_path):
    first, copy = (open_storage(tmp_path / name) for name in ("first", "copy"))
    waits, notes = [], []
    with Lease(first):
        shutil.copytree(first.location, copy.location)
        with Lease(copy, sleep=waits.append, note=notes.append, heartbeat_s=5, dead_after_s=30):
            assert sum(waits) == pytest.approx(30)
            assert drivers(copy) == [run_paths.driver(2)]
        with pytest.raises(ConfigError, match=rf"a driver is at work there \(process {os.getpid()} on "):
            Lease(first, sleep=pytest.fail).__enter__()
    assert len(notes) == 1


def test_a_driver_is_at_work_at_each_name_of_its_folder(tmp_path):
    folder = tmp_path / "run"
    (tmp_path / "link").symlink_to(folder)
    with Lease(open_storage(folder)):
        with pytest.raises(ConfigError, match="a driver is at work there"):
            Lease(open_storage(tmp_path / "link"), sleep=pytest.fail).__enter__()
        # What is not known to be the same, as below another mount, is watched.
        record = json.loads(open_storage(folder).read_bytes(run_paths.driver(1))) | {"place": "/mnt/run"}
        written = DriverRecord(**record)
        assert written.is_at_work(open_storage(folder)) is None

        def beat(_):
            write(open_storage(folder), 1, replace(written, mark=uuid.uuid4().hex))

        with pytest.raises(ConfigError, match="a driver is at work there"):
            Lease(open_storage(folder), sleep=beat).__enter__()


@pytest.mark.parametrize("more", [{"place": ""}, {"shard": 3}])
def test_a_driver_of_another_version_is_at_work_too(storage, more):
    record = asdict(DriverRecord.of_this_process(storage)) | more
    storage.write_bytes(run_paths.driver(1), json.dumps(record).encode())
    with pytest.raises(ConfigError, match="a driver is at work there"):
        Lease(storage, sleep=pytest.fail).__enter__()


def test_a_driver_of_another_machine_that_shows_no_life_is_succeeded_after_a_while(storage):
    write(storage, 7, ELSEWHERE)
    waits, notes = [], []
    with Lease(storage, sleep=waits.append, note=notes.append, heartbeat_s=5, dead_after_s=30):
        assert sum(waits) == pytest.approx(30)
        assert drivers(storage) == [run_paths.driver(8)]
    assert len(notes) == 1
    assert "on another" in notes[0]


def test_a_driver_of_another_machine_that_shows_life_is_left_alone(storage):
    write(storage, 1, ELSEWHERE)

    def sleep(_):
        write(storage, 1, replace(ELSEWHERE, mark="new"))

    with pytest.raises(ConfigError, match="on another"):
        Lease(storage, sleep=sleep).__enter__()


def test_a_driver_whose_record_cannot_be_read_for_a_while_is_not_dead(storage, monkeypatch):
    write(storage, 1, ELSEWHERE)
    read, faults = storage.read_bytes, iter([StorageError("503"), None, StorageError("503")])

    def sometimes(key):
        fault = next(faults, None)
        if fault:
            raise fault
        return read(key)

    monkeypatch.setattr(storage, "read_bytes", sometimes)
    with pytest.raises(ConfigError, match="on another"):
        Lease(storage, sleep=lambda _: write(storage, 1, replace(ELSEWHERE, mark=uuid.uuid4().hex))).__enter__()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]"])
def test_a_driver_whose_record_is_damaged_is_succeeded_after_a_while(storage, content):
    storage.write_bytes(run_paths.driver(1), content)
    waits = []
    with Lease(storage, sleep=waits.append, heartbeat_s=5, dead_after_s=30):
        assert sum(waits) == pytest.approx(30)


def test_a_driver_that_was_given_up_for_dead_stops(storage):
    with Lease(storage, heartbeat_s=0.01) as lease:
        lease.check()
        write(storage, 3, ELSEWHERE)
        deadline = time.monotonic() + 120
        with pytest.raises(ClusterError, match="another driver has taken over"):  # noqa: PT012
            while time.monotonic() < deadline:
                lease.check()
                time.sleep(0.01)
    # It does not claim to have been released.
    assert drivers(storage)[-1] == run_paths.driver(3)
    assert not json.loads(storage.read_bytes(run_paths.driver(3)))["is_released"]


def test_signs_of_life_change_the_record(storage):
    with Lease(storage, heartbeat_s=0.01):
        first = storage.read_bytes(run_paths.driver(1))
        deadline = time.monotonic() + 120
        while storage.read_bytes(run_paths.driver(1)) == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_of_many_that_come_at_once_after_a_death_one_wins(storage):
    write(storage, 1, replace(ELSEWHERE, is_released=True))
    barrier, held, refused, over = threading.Barrier(6), [], [], threading.Event()

    def drive():
        barrier.wait()
        try:
            with Lease(storage):
                held.append(True)
                over.wait(120)
        except ConfigError:
            refused.append(True)
        if len(refused) == 5:
            over.set()

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 5)


@pytest.mark.parametrize("is_looked_for", [True, False])
def test_a_driver_whose_folder_is_moved_away_stops_and_makes_nothing_there(tmp_path, is_looked_for):
    storage = open_storage(tmp_path / "run")
    with Lease(storage, heartbeat_s=0.05 if is_looked_for else 60.0) as lease:
        lease.check()
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        if is_looked_for:
            until_s = time.monotonic() + 60
            with pytest.raises(ClusterError, match=r"/run: drivers/0\S* is gone, .*was moved, removed or unmounted"):  # noqa: PT012
                while time.monotonic() < until_s:
                    lease.check()
                    time.sleep(0.01)
        else:
            lease.check()
            with pytest.raises(ClusterError, match="is gone"):
                lease.look()
    assert not (tmp_path / "run").exists()
    with Lease(open_storage(tmp_path / "elsewhere")):
        pass
