"""JSON records are whole or named."""

import pytest

from orchestrator.errors import IntegrityError
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import read_json, write_json


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'"pid"', "not a record but a str"),
        (b"[1]", "not a record but a list"),
        (b"{}", "pid is missing"),
        (b'{"pid": "1"}', "pid is '1'"),
        (b'{"pid": 1, "host": null}', "host is None"),
    ],
)
def test_a_record_that_is_not_as_it_was_written_is_named_with_what_to_do(tmp_path, content, found):
    storage = open_storage(tmp_path)
    storage.write_bytes("a/b.json", content)
    with pytest.raises(IntegrityError, match=rf"a/b\.json: .*{found}.*; expected what a run has written. Remove it"):
        read_json(storage, "a/b.json", {"pid": int, "host": str})


def test_a_record_comes_back_as_it_was(tmp_path):
    storage = open_storage(tmp_path)
    write_json(storage, "a.json", {"pid": 1, "host": "x", "more": [1.5]})
    assert read_json(storage, "a.json", {"pid": int, "host": str}) == {"pid": 1, "host": "x", "more": [1.5]}
