"""A kind of cluster is one class: nothing else has to know of it."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from orchestrator.api import make_request
from orchestrator.benchmark.loading import load_study
from orchestrator.cluster import registry
from orchestrator.cluster.config import ClusterConfig, RunningRay
from orchestrator.cluster.node_pool import NodePool
from orchestrator.evaluate import main as evaluate
from orchestrator.run_all import main

ROOT = Path(__file__).resolve().parents[2]


class LabCluster(ClusterConfig):
    """Some equal machines of a laboratory, by number."""

    kind: Literal["lab"] = "lab"
    desks: int

    def node_pools(self):
        return (NodePool(name="desk", max_nodes=self.desks, cpus=16, gpus=1),)

    @contextmanager
    def reach(self, run):
        yield RunningRay(address="127.0.0.1:1")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.KINDS, "lab", LabCluster)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lab.yaml"
    path.write_text("kind: lab\ndesks: 4\noutput: runs/here\n")
    return path


def test_a_kind_of_one_class_is_read_requested_shown_and_simulated(lab, capsys):
    request = make_request(load_study(), preset="paper", only=["T1-lung"], cluster=lab)
    assert (type(request.cluster), request.cluster.desks) == (LabCluster, 4)
    assert (request.output, request.cluster.path) == (str(Path("runs/here").absolute()), lab)
    arguments = ["--preset", "paper", "--only", "T1-lung"]
    assert main([*arguments, "--cluster", str(lab), "--dry-run"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--simulate", str(lab)]) == 0
    assert "cluster: 4 desk\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: lab\ndesk: 4\n", "unknown key 'desk'; did you mean 'desks'?"),
        ("kind: lab\n", "key 'desks' is missing"),
        ("kind: lba\n", f"kind is 'lba'; expected one of {', '.join([*registry.KINDS, 'lab'])}; did you mean 'lab'?"),
    ],
)
def test_its_mistakes_are_told_like_all_others(lab, capsys, text, message):
    lab.write_text(text)
    assert main(["--cluster", str(lab), "--dry-run"]) == 2
    assert f"error: {lab}: {message}" in capsys.readouterr().err


def test_what_starts_no_machines_refuses_questions_about_them(lab, capsys):
    assert main(["--cluster", str(lab), "--yes"]) == 2
    assert "--yes: only with a --cluster whose machines are rented" in capsys.readouterr().err


def test_a_command_that_starts_no_machines_says_so(tmp_path, capsys):
    for name in ("reference", "prediction"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii.gz").touch()
    arguments = ["--reference", str(tmp_path / "reference"), "--prediction", str(tmp_path / "prediction")]
    assert evaluate([*arguments, "--label", "1=1", "--cluster", str(ROOT / "clusters/aws.yaml")]) == 2
    assert "aws.yaml: this command starts no machines" in capsys.readouterr().err


def test_nothing_outside_of_the_kinds_asks_which_kind_it_is():
    found = subprocess.run(
        ["grep", "-rnE", r"(cluster|config)\.kind\b", "orchestrator", "--include=*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""


def test_the_class_of_the_guide_in_a_file_of_its_own_is_found_by_the_command(tmp_path):
    guide = (ROOT / "docs" / "extending.md").read_text()
    code = next(part for part in guide.split("```python\n") if "class LabCluster" in part).split("```")[0]
    (tmp_path / "lab.py").write_text(code)
    (tmp_path / "lab.yaml").write_text("kind: lab\ndesks: 3\n")
    words = ["--preset", "paper", "--only", "T1-lung", "--simulate", str(tmp_path / "lab.yaml")]
    start = f"from orchestrator.cluster import kinds; kinds.__path__.append({str(tmp_path)!r})\n"
    start += f"from orchestrator.run_all import main; raise SystemExit(main({words!r}))"
    ran = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)
    assert "cluster: 3 desk\n" in ran.stdout, ran.stderr
