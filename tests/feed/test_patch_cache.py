"""Claims about the records of a training's patches and about the cache of remote ones."""

import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from orchestrator.cli.verify import main
from orchestrator.errors import IntegrityError
from orchestrator.patches.gathered import gathered_patches
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.record import PatchRecord
from orchestrator.patches.writer import write_patches
from orchestrator.storage import copies
from orchestrator.storage.local import LocalStorage
from orchestrator.storage.private_folder import CACHES
from orchestrator.storage.run_paths import record_of_patches


class RemoteStorage(LocalStorage):
    """A folder that pretends to be a bucket, and notes every download."""

    is_remote = True

    def fetch(self, key, *, sha256=None):
        path = self._path(key)

        def download(target):
            with (self._root / "downloads").open("a") as notes:
                notes.write(f"{key}\n")
            time.sleep(0.1)  # long enough for another process to want the same file
            shutil.copyfile(path, target)

        name = f"remote://{self.location}/{key}"
        num_bytes = path.stat().st_size
        return copies.fetched(name, version="1", num_bytes=num_bytes, download=download, sha256=sha256)

    def downloads(self):
        path = self._root / "downloads"
        return path.read_text().split() if path.exists() else []


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Give a folder for caches, also of processes that are started."""
    folder = tmp_path / "caches"
    folder.mkdir()
    monkeypatch.setenv(CACHES, str(folder))
    return folder


@pytest.fixture
def patches(tmp_path):
    """Three patch files of one training in a folder, and their records."""
    storage = LocalStorage(str(tmp_path / "output"))
    records = {}
    for index in range(3):
        random = np.random.default_rng(index)
        data = random.normal(size=(1, 8, 40, 40)).astype(np.float32)
        seg = random.integers(0, 3, data.shape, dtype=np.int8)
        properties = {"spacing": [1.0] * 3, "class_locations": {1: np.argwhere(seg == 1)[:50]}}
        key = f"patches/T1/case_{index}.arrow"
        with storage.writing(key) as path:
            write_patches(path, data=data, seg=seg, properties=properties)
            records[key] = PatchRecord.of_file(path)
    return storage, records


def verify(storage, records):
    for key, record in records.items():
        record.verify(storage, key)


def remote(patches):
    return RemoteStorage(patches[0].location)


def names(folder):
    return sorted(path.name for path in folder.glob("*.arrow"))


def test_verify_finds_every_flipped_byte(patches):
    storage, records = patches
    verify(storage, records)
    key = "patches/T1/case_1.arrow"
    content = storage.read_bytes(key)
    random = np.random.default_rng(0)
    for at in [0, len(content) - 1, *random.integers(0, len(content), 60)]:
        changed = bytearray(content)
        changed[at] ^= 1 << int(random.integers(8))
        storage.write_bytes(key, bytes(changed))
        with pytest.raises(IntegrityError, match=r"case_1\.arrow"):
            verify(storage, records)


def test_verify_names_what_is_missing_cut_or_exchanged(patches):
    storage, records = patches
    first, second, third = records
    storage.write_bytes(first, storage.read_bytes(second))
    with pytest.raises(IntegrityError, match=r"case_0\.arrow: .*expected"):
        verify(storage, records)
    storage.write_bytes(second, storage.read_bytes(second)[:-8])
    with pytest.raises(IntegrityError, match=r"case_1\.arrow: \d+ bytes; expected \d+"):
        records[second].verify(storage, second)
    storage.delete(third)
    with pytest.raises(IntegrityError, match=r"case_2\.arrow: missing"):
        records[third].verify(storage, third)


def test_the_command_names_what_is_damaged_and_removes_it_if_asked_to(patches, capsys):
    storage, records = patches
    command = ["--output", storage.location]
    keys = list(records)
    for key in keys[:2]:
        storage.write_bytes(record_of_patches(key), records[key].to_bytes())
    assert main(command) == 1
    assert "case_2.arrow: without its record" in capsys.readouterr().out
    storage.write_bytes(record_of_patches(keys[2]), b"{}")
    assert main(command) == 1
    assert f"{record_of_patches(keys[2])}: not a record of patches" in capsys.readouterr().out
    storage.write_bytes(record_of_patches(keys[2]), records[keys[2]].to_bytes())
    assert main(command) == 0
    storage.write_bytes(keys[1], storage.read_bytes(keys[1])[:-1])
    assert main([*command, "--remove"]) == 1
    out = capsys.readouterr().out
    assert "damaged: " in out
    assert "case_1.arrow" in out
    assert out.endswith("2 of 3 patch files are whole\n")
    assert not storage.exists(keys[1])
    for key in (keys[0], keys[2]):
        storage.delete(key)
    assert main(command) == 2


def test_ctrl_c_ends_the_command_with_one_line(patches, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PatchRecord, "verify", interrupt)
    storage, records = patches
    for key, record in records.items():
        storage.write_bytes(record_of_patches(key), record.to_bytes())
    assert main(["--output", storage.location]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_files_of_a_local_folder_are_not_copied(patches, caches):
    storage, records = patches
    with gathered_patches(storage, records) as folder:
        assert names(folder) == ["case_0.arrow", "case_1.arrow", "case_2.arrow"]
        assert all(path.is_symlink() for path in folder.iterdir()), "nnU-Net expects files of one kind"
    assert not folder.exists()
    assert not list(caches.iterdir())


def test_a_remote_file_is_fetched_once_and_compared(patches):
    storage = remote(patches)
    for _ in range(3):
        with gathered_patches(storage, patches[1]) as folder:
            for name in names(folder):
                PatchFile.open(folder / name).verify()
            assert len(names(folder)) == 3
    verify(storage, patches[1])
    assert sorted(storage.downloads()) == sorted(patches[1])


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_copy_that_has_rotted_is_fetched_again(patches, caches, is_noticed):
    storage, (key, record) = remote(patches), next(iter(patches[1].items()))
    verify(storage, {key: record})
    (copy,) = caches.rglob("case_0.arrow")
    status = copy.stat()
    content = bytearray(copy.read_bytes())
    content[1000] ^= 1
    copy.write_bytes(bytes(content))
    if not is_noticed:
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    with gathered_patches(storage, {key: record}) as folder:
        assert (folder / "case_0.arrow").read_bytes() == patches[0].read_bytes(key)
    assert storage.downloads() == [key, key]


def test_a_damaged_remote_file_is_asked_for_twice_refused_and_not_kept(patches, caches):
    key = "patches/T1/case_0.arrow"
    content = bytearray(patches[0].read_bytes(key))
    content[1000] ^= 1
    patches[0].write_bytes(key, bytes(content))
    storage = remote(patches)
    with (
        pytest.raises(IntegrityError, match=r"case_0\.arrow: SHA-256 \w+ of \d+ bytes; expected"),
        gathered_patches(storage, patches[1]),
    ):
        pass
    assert storage.downloads() == [key, key]
    assert not [path for path in caches.rglob("*") if path.is_file() and path.stat().st_size]


def want(location, records, barrier, queue):
    barrier.wait()
    with gathered_patches(RemoteStorage(location), records) as folder:
        queue.put([PatchFile.open(path).image[0, 0, 0, 0] for path in sorted(folder.glob("*.arrow"))])


def test_two_processes_that_want_the_same_cases_fetch_them_once(patches):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    arguments = (patches[0].location, patches[1], barrier, queue)
    processes = [context.Process(target=want, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=600) for _ in processes]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert found[0] == found[1]
    assert sorted(remote(patches).downloads()) == sorted(patches[1])


def test_the_files_of_a_training_stay_where_others_need_room(patches, caches, monkeypatch):
    monkeypatch.setattr(copies, "CACHE_LIMIT_BYTES", 1)
    storage = remote(patches)
    of_each = [{key: record} for key, record in patches[1].items()]
    with gathered_patches(storage, of_each[0] | of_each[1]) as held:
        with gathered_patches(storage, of_each[2]):
            pass
        for name in names(held):
            PatchFile.open(held / name).verify()
        assert len(names(held)) == 2
    with gathered_patches(storage, of_each[2]):
        pass  # it is there
    with gathered_patches(storage, of_each[0]):
        pass  # this as well
    monkeypatch.setattr(copies, "LEFT_BYTES", 1 << 62)
    storage.write_bytes("other", b"1")
    storage.fetch("other")
    assert not list(caches.rglob("*.arrow"))
    assert [Path(key).stem for key in storage.downloads()] == ["case_0", "case_1", "case_2", "other"]


def test_patches_of_another_version_are_refused(patches):
    record = PatchRecord(num_bytes=1, sha256="0" * 64, version=1)
    gathered = gathered_patches(patches[0], {"patches/T1/case_0.arrow": record})
    with pytest.raises(IntegrityError, match=r"case_0\.arrow: version 1; expected 3"), gathered:
        pass
