"""Published scores and errata that are none are named by our error."""

import shutil

import pytest

from orchestrator.benchmark.loading import DEFAULT_STUDY
from orchestrator.benchmark.published import PublishedScores
from orchestrator.errors import ConfigError

SCORES, ERRATA = "published_scores.csv", "errata.yaml"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (SCORES, lambda text: text.replace(b"dsc_mean", b"dsc")),
        (SCORES, lambda text: text.replace(b"0.", b"x.", 1)),
        (SCORES, lambda text: text + b"\xff"),
        (SCORES, lambda text: text + b"a,b\n"),
        (ERRATA, lambda _: b"id: x"),
        (ERRATA, lambda _: b""),
        (ERRATA, lambda _: b"- {id: x, text: y, rows: [3], values: [dsc]}"),
        (ERRATA, lambda _: b"- {id: x, text: y, rows: [[a, {b: 1}, c, d]], values: [dsc]}"),
        (ERRATA, lambda _: b"- {id: x, text: y, rows: [[a, 0, c, d]], values: [[dsc]]}"),
        (ERRATA, lambda _: b"- {id: x, text: y, rows: [[a, 0, c, d]]}"),
        (ERRATA, lambda _: b"- {id: x, text: y, values: [dsc]}"),
        (ERRATA, lambda _: b"- {id: x, text: y, rows: [[a, 0, c]], values: [dsc]}"),
        (ERRATA, lambda _: b"- {id: x, text: y, row: []}"),
    ],
)
def test_published_files_that_are_none_are_named(tmp_path, name, change):
    for one in (SCORES, ERRATA):
        shutil.copy(DEFAULT_STUDY.with_name(one), tmp_path / one)
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(ConfigError, match=name):
        PublishedScores.read(scores=tmp_path / SCORES, errata=tmp_path / ERRATA)
