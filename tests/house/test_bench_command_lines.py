"""What the benchmarks refuse before they start anything."""

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

import pytest

from bench.instruments.machine import conditions, processor
from orchestrator.storage import run_paths

REFUSED = {
    "chaos": {
        ("--kinds", "nix"): "--kinds nix: unknown; expected some of controller, driver, node, trainer, warning, worker",
        ("--kills", "-1"): "--kills: -1: expected a whole number of at least 1",
        ("--limit-min", "nan"): "--limit-min nan: expected more than 0",
    },
    "slurm": {
        (
            "--kinds",
            "nix",
        ): "--kinds nix: unknown; expected some of scancel, drain, slurmd, requeue",
        ("--every-s", "0"): "--every-s 0: expected more than 0",
        ("--limit-min", "nan"): "--limit-min nan: expected more than 0",
    },
    "surface_dice": {
        ("--masks", "/nix"): "--masks: /nix: no such folder",
        ("--rounds", "0"): "--rounds: 0: expected a whole number",
    },
    "feed": {
        ("--slices", "60", "0"): "--slices: 0: expected a whole number",
        ("--rounds", "2.5"): "--rounds: 2.5: expected a whole number",
        ("--folder", "/nix"): "--folder: /nix: no such folder",
    },
    "exported_models": {("/nix",): "run: /nix: no such folder"},
    "predict": {("--classes", "0"): "--classes: 0: expected a whole number"},
    "workers": {
        ("--workers", "0"): "--workers: 0: expected a whole number",
        ("--folder", "/nix"): "--folder: /nix: no such folder",
    },
    "preprocessing": {("--labels", "0"): "--labels: 0: expected a whole number"},
    "feed.trainings": {("--trainings", "0"): "--trainings: 0: expected a whole number"},
    "stock_trainer": {
        ("--only", "nix"): "--only: invalid choice: 'nix'",
        ("--seeds", "0"): "--seeds: 0: expected a whole number",
        ("--folder", "/nix"): "--folder: /nix: no such folder",
    },
    "feed.gpu": {
        ("--preset", "nix", "--device", "cpu"): "--preset: invalid choice: 'nix'",
        ("--cores", "0"): "--cores: 0: expected a whole number",
    },
}


def refusal(name, arguments, monkeypatch, capsys):
    """Return the last line of a benchmark that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", [f"bench.{name}", *arguments])
    is_room = importlib.util.find_spec(f"bench.{name}").submodule_search_locations is not None
    benchmark = importlib.import_module(f"bench.{name}.__main__" if is_room else f"bench.{name}")
    with pytest.raises(SystemExit) as caught:
        benchmark.main()
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, arguments) for name, cases in REFUSED.items() for arguments in cases]
)
def test_a_bad_command_line_is_refused_in_one_line(name, arguments, monkeypatch, capsys):
    if name == "surface_dice":
        pytest.importorskip("surface_distance", reason="the library that it compares with comes with the extra bench")
    assert REFUSED[name][arguments] in refusal(name, arguments, monkeypatch, capsys)


@pytest.mark.parametrize("path", sorted(Path("bench").rglob("*.py")), ids=str)
def test_every_benchmark_prints_the_processor_beside_its_figures(path):
    source = path.read_text(encoding="utf-8")
    assert "command_line(" not in source or "conditions(" in source or path.name == "command_line.py"


def test_conditions_name_the_processor_and_versions():
    assert processor() in conditions("numba")
    assert f"numba {metadata.version('numba')}" in conditions("numba")


def test_the_miniature_run_is_not_measured_in_a_folder_that_holds_a_run(monkeypatch, capsys, tmp_path):
    (tmp_path / run_paths.RUN).write_text("{}")
    line = refusal("smoke", ["--output", str(tmp_path)], monkeypatch, capsys)
    assert f"--output {tmp_path}: holds a run; expected a folder without one" in line
