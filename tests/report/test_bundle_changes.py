"""Whatever is changed in a bundle is named: 260 changes here, 1,000 in bench.bundle."""

import pytest

from bench.bundle.__main__ import is_named, lines_about
from bench.bundle.changes import CHANGES
from bench.bundle.sealed_run import remembered, sealed
from orchestrator.bundle.archive import read_archive

NUM_BYTES, NUM_FILES, NUM_FORMS, NUM_CELLS, NUM_ROWS = 80, 60, 60, 50, 10
"""A changed row is a report of its own to calculate; the others follow from rows that are known."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return dict(read_archive(sealed(folder)[0]).files), folder, remembered()


@pytest.mark.parametrize(
    ("kind", "number"),
    [("byte", NUM_BYTES), ("file", NUM_FILES), ("form", NUM_FORMS), ("cell", NUM_CELLS), ("row", NUM_ROWS)],
)
def test_each_change_is_named(kind, number, whole):
    files, folder, derive = whole
    assert kind in CHANGES
    silent = []
    for index in range(number):
        where, lines = lines_about(kind, number=(1, index), files=files, folder=folder, derive=derive)
        if not is_named(kind, where, lines):
            silent.append((index, where, lines[:2]))
    assert silent == []
