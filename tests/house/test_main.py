"""Claims about the one command: it finds the others, and is all that an installed package needs."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import pytest

from orchestrator.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_that_of_the_package(capsys):
    for word in ("--version", "-V", "version"):
        assert main([word]) == 0
        assert capsys.readouterr().out == f"orchestrator {version('nnunet-orchestrator')}\n"


@pytest.mark.parametrize("word", ["--help", "help"])
def test_help_names_every_command(word, capsys):
    assert main([word]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_help_tells_of_one_command(capsys):
    with pytest.raises(SystemExit):
        main(["help", "status"])
    assert capsys.readouterr().out.startswith("usage: orchestrator status ")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")


def test_an_unknown_command_is_one_line(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == f"error: trian: no such command; expected one of {', '.join(COMMANDS)}\n"
    assert main(["evaluete"]) == 2
    assert capsys.readouterr().err == "error: evaluete: no such command; did you mean evaluate?\n"


def test_who_thinks_better_of_it_while_a_command_is_imported_sees_one_word(capsys, monkeypatch):
    monkeypatch.setattr("orchestrator.cli.main.importlib.import_module", mock.Mock(side_effect=KeyboardInterrupt))
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_importing_the_package_loads_neither_torch_nor_ray():
    code = "import sys, orchestrator; assert not {'torch', 'ray', 'SimpleITK'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Return a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_a_wheel_holds_code_types_studies_and_clusters_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kernels", "orchestrator"}
    for name in ("orchestrator/py.typed", "kernels/py.typed"):
        assert name in names
    for part in ("splits/covid19/study.yaml", "splits/covid19/published_scores.csv", "clusters/local.yaml"):
        assert f"orchestrator/shipped/{part}" in names


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return how to run the command of a wheel in an environment with this one's libraries, but not this checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], check=True)
    site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "libraries.pth").write_text(f"{libraries}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words):
        command = [folder / "venv" / "bin" / "orchestrator", *words]
        done = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_an_installed_wheel_shows_the_matrix_from_anywhere(installed):
    assert "45 trainings, about " in installed("run", "--dry-run")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_installed_wheel_trains_a_miniature_and_evaluates_its_predictions(installed, tmp_path):
    shown = installed("run", "--only", "T1-infection-fold0", "--output", str(tmp_path))
    assert "1 of 1 trainings done" in shown
    assert f"{tmp_path}/report/index.html" in shown
    assert "Whole: the one training has scores." in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    predictions = tmp_path / "predictions" / "T1-infection-fold0" / "mosmed"
    shown = installed("evaluate", "--reference", str(predictions), "--prediction", str(predictions), "--label", "1=3")
    assert re.search(r"1 +DSC +1\.0000", shown)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_looks_alike(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: orchestrator {name} [-h]")
    assert "Exit code 0: " in " ".join(out.split())
    assert out.endswith("\n\nExit code 130: interrupted.\n")


@pytest.mark.parametrize("words", [["status"], ["report"], ["verify"], ["export-tracking", "--to", "mlflow"]])
def test_a_run_is_named_by_its_option_or_without_it(words, tmp_path, capsys):
    assert main([*words, "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}: no ")
    assert main([*words, str(tmp_path)]) == 2
    assert capsys.readouterr().err == said
    with pytest.raises(SystemExit, match="2"):
        main([*words, str(tmp_path), "--output", str(tmp_path)])


def test_the_pages_call_each_command_by_its_one_name():
    pages = {
        path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    }
    called = {word for text in pages.values() for word in re.findall(r"(?m)^(?:\S*/)?orchestrator ([a-z-]+)", text)}
    assert called <= set(COMMANDS)
    modules = {word for text in pages.values() for word in re.findall(r"python -m orchestrator\.(\w+)", text)}
    # Who writes the schemas changes the code, and is no command.
    assert modules == {"run_all", "schemas"}
    assert not [name for name in pages if name not in {"README.md", "architecture.md"} and "run_all" in pages[name]]


@pytest.mark.parametrize("module", ["run_all", "status", "evaluate", "verify", "doctor", "phantom"])
def test_the_documented_modules_are_doors_to_the_commands(module):
    done = subprocess.run(
        [sys.executable, "-m", f"orchestrator.{module}", "--help"], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("usage: orchestrator ")
    assert len((ROOT / "orchestrator" / f"{module}.py").read_text().splitlines()) <= 30
