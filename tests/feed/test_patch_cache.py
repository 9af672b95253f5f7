"""Claims about the records of a training's patches and about the cache of remote ones."""

import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator.cli.verify import main
from orchestrator.errors import IntegrityError
from orchestrator.patches.cache import PatchCache
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.record import PatchRecord
from orchestrator.patches.writer import write_patches
from orchestrator.storage import cache_room
from orchestrator.storage.local import LocalStorage
from orchestrator.storage.run_paths import record_of_patches


class RemoteStorage:
    """A folder that pretends to be remote, and notes every read."""

    def __init__(self, folder):
        self.location = f"remote:{folder}"
        self._folder = Path(folder)

    def read_bytes(self, key):
        with (self._folder / "reads").open("a") as notes:
            notes.write(f"{key}\n")
        time.sleep(0.1)  # long enough for another process to want the same file
        return (self._folder / key).read_bytes()

    def reads(self):
        path = self._folder / "reads"
        return path.read_text().split() if path.exists() else []


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


def test_files_of_a_local_folder_are_not_copied(patches, tmp_path):
    storage, records = patches
    with PatchCache(tmp_path / "cache").gathered(storage, records) as folder:
        assert names(folder) == ["case_0.arrow", "case_1.arrow", "case_2.arrow"]
        assert all(path.is_symlink() for path in folder.iterdir()), "nnU-Net expects files of one kind"
    assert not folder.exists()
    assert not (tmp_path / "cache").exists()


def test_a_remote_file_is_fetched_once_and_compared(patches, tmp_path):
    storage, cache = remote(patches), PatchCache(tmp_path / "cache")
    for _ in range(3):
        with cache.gathered(storage, patches[1]) as folder:
            for name in names(folder):
                PatchFile.open(folder / name).verify()
            assert len(names(folder)) == 3
    assert sorted(storage.reads()) == sorted(patches[1])


def test_a_copy_that_has_rotted_is_fetched_again(patches, tmp_path):
    storage, cache = remote(patches), PatchCache(tmp_path / "cache")
    (key, record), *_ = patches[1].items()
    one = {key: record}
    with cache.gathered(storage, one):
        pass
    copy = tmp_path / "cache" / record.sha256
    content = bytearray(copy.read_bytes())
    content[1000] ^= 1
    copy.write_bytes(bytes(content))
    with cache.gathered(storage, one) as folder:
        assert (folder / "case_0.arrow").read_bytes() == patches[0].read_bytes(key)
    assert storage.reads() == [key, key]


def test_a_lock_that_is_a_link_is_not_followed(patches, tmp_path):
    failed = tmp_path / "failed"
    failed.write_text("content")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".lock").symlink_to(failed)
    with pytest.raises(OSError, match="symbolic"), PatchCache(tmp_path / "cache").gathered(remote(patches), patches[1]):
        pass
    assert failed.read_text() == "content"


def test_a_damaged_remote_file_is_refused_and_not_kept(patches, tmp_path):
    key = "patches/T1/case_0.arrow"
    content = bytearray(patches[0].read_bytes(key))
    content[1000] ^= 1
    patches[0].write_bytes(key, bytes(content))
    cache = PatchCache(tmp_path / "cache")
    with pytest.raises(IntegrityError, match=r"case_0\.arrow"), cache.gathered(remote(patches), patches[1]):
        pass
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir() or path.stat().st_size]


def want(location, cache, records, barrier, queue):
    barrier.wait()
    with PatchCache(cache).gathered(RemoteStorage(location), records) as folder:
        queue.put([PatchFile.open(path).image[0, 0, 0, 0] for path in sorted(folder.glob("*.arrow"))])


def test_two_processes_that_want_the_same_cases_fetch_them_once(patches, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    arguments = (patches[0].location, tmp_path / "cache", patches[1], barrier, queue)
    processes = [context.Process(target=want, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=600) for _ in processes]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert found[0] == found[1]
    assert sorted(remote(patches).reads()) == sorted(patches[1])


def test_the_file_used_longest_ago_is_evicted_and_stays_with_whoever_has_it(patches, tmp_path):
    storage, records = remote(patches), patches[1]
    sizes = [record.num_bytes for record in records.values()]
    cache = PatchCache(tmp_path / "cache", limit_bytes=sum(sizes[:2]) + sizes[2] // 2)
    one = [{key: record} for key, record in records.items()]
    for index, used_s in ((0, 100), (1, 200)):
        with cache.gathered(storage, one[index]) as folder:
            os.utime(folder / f"case_{index}.arrow", (used_s, used_s))
    with cache.gathered(storage, one[1]):
        pass  # 0 is the one that was used longest ago
    with cache.gathered(storage, one[1]) as held:
        with cache.gathered(storage, one[2]):
            pass
        with cache.gathered(storage, one[0]):
            pass  # 2 had to go, since 1 is in use
        PatchFile.open(held / "case_1.arrow").verify()
    with cache.gathered(storage, one[1]):
        pass
    assert [Path(key).stem for key in storage.reads()] == ["case_0", "case_1", "case_2", "case_0"]
    kept = [path for path in (tmp_path / "cache").iterdir() if path.is_file() and path.stat().st_size]
    assert len(kept) == 2


def test_on_a_small_disk_files_are_evicted_before_it_is_full(patches, tmp_path, monkeypatch):
    storage, records = remote(patches), patches[1]
    sizes = [record.num_bytes for record in records.values()]
    folder = tmp_path / "cache"
    disk = cache_room.LEFT_BYTES + sum(sizes[:2]) + sizes[2] // 2

    def usage(_):
        return SimpleNamespace(free=disk - sum(path.stat().st_size for path in folder.iterdir() if path.is_file()))

    monkeypatch.setattr(cache_room.shutil, "disk_usage", usage)
    cache = PatchCache(folder)
    for key, record in records.items():
        with cache.gathered(storage, {key: record}):
            pass
    kept = {path.name for path in folder.iterdir() if path.is_file() and path.stat().st_size}
    assert kept == {record.sha256 for record in list(records.values())[1:]}


def test_what_a_killed_process_left_is_swept(patches, tmp_path):
    cache = PatchCache(tmp_path / "cache")
    left = tmp_path / "cache" / "in-use-dead"
    left.mkdir(parents=True)
    (left / "case_0.arrow").write_bytes(b"1")
    (tmp_path / "cache" / "0123.partial").write_bytes(b"1")
    wanted = remote(patches), patches[1]
    with cache.gathered(*wanted) as folder, cache.gathered(*wanted) as other:
        assert not left.exists()
        assert not (tmp_path / "cache" / "0123.partial").exists()
        assert names(folder) == names(other)


def test_patches_of_another_version_are_refused(patches, tmp_path):
    record = PatchRecord(num_bytes=1, sha256="0" * 64, version=1)
    gathered = PatchCache(tmp_path / "cache").gathered(patches[0], {"patches/T1/case_0.arrow": record})
    with pytest.raises(IntegrityError, match=r"case_0\.arrow: version 1; expected 3"), gathered:
        pass
