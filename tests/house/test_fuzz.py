"""A few hundred changes of each format, read in processes of their own; `bench.fuzz` makes 10,000 of each."""

import numpy as np
import pytest

from bench.fuzz import __main__ as fuzz
from bench.fuzz.formats import FORMATS
from bench.fuzz.mutations import mutate_bytes, mutate_json, mutate_text
from bench.fuzz.seals import sealed_patches
from orchestrator.patches.reader import PatchFile

NUM_MUTATIONS = 200
FEWER = {"dicom": 50, "studies": 60}
"""Where a file takes long: all of a series, or of a study, is read each time."""


@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_are_refused_by_our_errors_or_read_as_what_they_say(name):
    number = FEWER.get(name, NUM_MUTATIONS)
    findings = fuzz.fuzz(name, num_mutations=number, seed=1)
    assert findings.problems == []
    assert sum(findings.counts.values()) == number
    assert findings.counts["refused"] > 0


@pytest.mark.parametrize("mutate", [mutate_bytes, mutate_text, mutate_json])
def test_a_change_follows_from_its_seed(mutate):
    content = b'{"a": [1, 2, {"b": "x"}], "c": 0.5}'
    made = [[mutate(content, np.random.default_rng(index)) for index in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 40


def test_a_file_that_is_sealed_again_without_a_change_is_whole(tmp_path):
    for content in FORMATS["patches"].make(tmp_path):
        (tmp_path / "a.arrow").write_bytes(sealed_patches(content))
        PatchFile.open(tmp_path / "a.arrow").verify()


PROBLEMS = {
    "dies": ("import os; os.abort()", "the process dies with code -6"),
    "hangs": ("import time; time.sleep(99)", "hangs for more than 1 s"),
    "fails": ("raise KeyError('x')", "KeyError: \"'x'\" at "),
    "lies": ("return 2", "read as something else"),
    "grows": ("bytearray(50 * 2**30)", "MemoryError"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_reader_that_does_anything_else_is_found_and_the_next_file_is_read(name, monkeypatch, tmp_path):
    does, expected = PROBLEMS[name]
    (tmp_path / "sitecustomize.py").write_text(
        "from bench.fuzz import formats\n"
        "def read(content, folder):\n"
        "    if content == b'sound': return 1\n"
        "    if content != b'first' and not (folder / 'x').exists():\n"
        "        (folder / 'x').touch()\n"
        f"        {does}\n"
        "    return 1\n"
        "formats.FORMATS['bad'] = formats.Format(\n"
        "    make=lambda _: [b'sound'], read=read, mutate=lambda _, random: b'changed', is_checked=True)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{fuzz.ROOT}")
    monkeypatch.setattr(fuzz, "LIMIT_S", 1.0)
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(fuzz, "MEMORY", tmp_path / "memory")
    findings = fuzz.fuzz("bad", num_mutations=3, seed=0)
    assert list((tmp_path / "memory").iterdir()) == []
    assert findings.problems
    assert findings.problems[0].startswith(f"bad 0: {expected}")
    assert sum(findings.counts.values()) == 3
