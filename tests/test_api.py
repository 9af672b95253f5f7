"""Claims about what a program asks for."""

import subprocess
import sys

import pytest

import orchestrator
from orchestrator.api import make_request
from orchestrator.errors import ConfigError, DataError
from orchestrator.shipped import LOCAL_CLUSTER

AWS = LOCAL_CLUSTER.with_name("aws.yaml")


def test_the_package_is_imported_without_what_takes_seconds():
    code = "import sys, orchestrator; print(*{'torch', 'ray', 'SimpleITK', 'numpy', 'rich'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == ""


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = orchestrator.fit


def test_a_part_of_a_study_is_what_runs():
    study = orchestrator.load_study().select("T1-lung", "task=2")
    request = make_request(study)
    assert len(request.trainings) == 5 + 5
    assert request.cluster.num_gpus == 0  # a miniature leaves GPUs alone
    assert len(study.all_trainings(preset=request.preset)) == 110


def test_a_pattern_that_matches_nothing_is_refused_when_it_is_used():
    with pytest.raises(ConfigError, match="matches none of the 45 trainings"):
        make_request(orchestrator.load_study().select("T9-*"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "papre"}, ConfigError, "unknown; expected one of smoke"),
        ({"preset": "paper"}, ConfigError, "expected --data with their folder"),
        ({"seed": -1}, ConfigError, "seed -1: expected a number from 0"),
        ({"cluster": AWS, "output": "s3://bucket/run"}, ConfigError, "starts machines, which takes an answer"),
        ({"data": "{folder}"}, DataError, "found no such folder; expected the download"),
    ],
)
def test_what_does_not_fit_is_raised_before_anything_starts(tmp_path, arguments, error, message):
    given = {name: tmp_path if value == "{folder}" else value for name, value in arguments.items()}
    with pytest.raises(error, match=message):
        orchestrator.run(orchestrator.load_study(), **{"output": tmp_path / "run", **given})
    assert not (tmp_path / "run").exists()
