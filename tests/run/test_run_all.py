"""The command line: what it shows, what it refuses, and with which exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator.cli.run import main
from orchestrator.cli.run.options import build_parser, command_for, select
from orchestrator.cluster.environment import LAUNCHED_FROM
from orchestrator.driver.run import RunOutcome
from orchestrator.shipped import shipped_file
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

ROOT = Path(__file__).resolve().parents[2]


def test_dry_run_lists_the_45_core_trainings_as_json_and_needs_no_data(capsys):
    assert main(["--dry-run", "--json", "--preset", "paper"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 45
    row = next(row for row in rows if row["id"] == "T3-lung-nsclc-fold2")
    assert row == {
        "id": "T3-lung-nsclc-fold2",
        "task": 3,
        "subtask": "lung",
        "source": "nsclc",
        "fold": 2,
        "configuration": "3d_fullres",
        "split": "20-80",
        "model": "3d",
        "num_train_cases": 326,
        "num_val_cases": 80,
        "num_test_cases": 16,
        "expected_hours": pytest.approx(9.03, abs=0.01),
    }


def test_dry_run_shows_a_table_and_names_the_trainings_with_a_patient_in_two_sets(capsys):
    assert main(["--dry-run", "--only", "T1-lung", "--preset", "paper", "--data", "s3://bucket/downloads"]) == 0
    out = capsys.readouterr().out
    assert "5 trainings" in out
    notes = [line.split("scans of one patient: ")[1] for line in out.splitlines() if line.startswith("note: ")]
    kept = "The splits of the study are kept."
    assert notes == [f"the first is trained on and the second scored in T1-lung-fold{fold}. {kept}" for fold in (2, 4)]


def test_dry_run_on_data_shows_what_a_run_would_refuse_and_makes_no_output(capsys, tmp_path):
    (tmp_path / "downloads").mkdir()
    arguments = ["--only", "T1-lung-fold0", "--data", str(tmp_path / "downloads"), "--output", str(tmp_path / "run")]
    line = f"{tmp_path}/downloads/covid-19-ct-seg: found no such folder; expected the download covid-19-ct-seg."
    assert main(["--dry-run", *arguments]) == 2
    shown = capsys.readouterr()
    assert "1 training, about " in shown.out
    assert line in shown.out
    assert f"error: 1 problem in {tmp_path}/downloads; nothing was started." in shown.err
    assert main(arguments) == 2
    assert line in capsys.readouterr().out
    assert main(["--dry-run", "--json", *arguments]) == 2
    shown = capsys.readouterr()
    assert [row["id"] for row in json.loads(shown.out)] == ["T1-lung-fold0"]
    assert line in shown.err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_the_shipped_file_for_aws_takes_no_bucket_and_no_credentials(monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    cluster = str(shipped_file("clusters", "aws.yaml"))
    assert main(["--dry-run", "--only", "T1-lung", "--preset", "paper", "--cluster", cluster]) == 0
    assert "5 trainings" in capsys.readouterr().out


def test_one_training_is_not_trainings(capsys):
    assert main(["--dry-run", "--only", "T1-lung-fold0"]) == 0
    assert "\n1 training, about " in capsys.readouterr().out


REFUSED = {
    "unknown preset": (["--preset", "papr"], "--preset papr: unknown; expected one of smoke, quick, paper"),
    "unknown matrix": (["--matrix", "cores"], "--matrix cores: unknown"),
    "pattern without a match": (["--only", "T4-*"], "--only T4-*: matches none of the 45 trainings"),
    "a large seed": (["--seed", str(2**63)], "expected a number from 0 to 2^63 - 1"),
    "another storage": (["--data", "ftp://host/downloads"], "ftp://host/downloads: not a storage location"),
    "half a bucket": (["--data", "s3:/bucket/x"], "s3:/bucket/x: not a storage location"),
    "paper without data": (["--preset", "paper"], "expected --data"),
    "json without dry-run": (["--json"], "--json: only with --dry-run"),
    "prices without simulate": (["--prices", "prices.yaml"], "--prices: only with --simulate"),
    "a limit without simulate": (["--deadline", "0"], "--deadline: only with --simulate"),
    "no time at all": (["--simulate", "CORES", "--deadline", "-1"], "--deadline -1: expected a number above 0"),
    "no number of hours": (["--simulate", "CORES", "--deadline", "nan"], "--deadline nan: expected a number above 0"),
    "no money": (["--simulate", "CORES", "--max-cost", "0"], "--max-cost 0: expected a number above 0"),
    "two kinds of preview": (["--dry-run", "--simulate", "CORES"], "--dry-run and --simulate: expected one of them"),
    "a manifest and its end": (["--render", "--down"], "--render and --down: expected one of them"),
    "keep where nothing can stay": (["--keep"], "--keep: only with a --cluster whose machines can outlast a run"),
    "yes without rented machines": (["--yes"], "--yes: only with a --cluster whose machines are rented"),
    "keep in a simulation": (["--simulate", str(ROOT / "clusters/aws.yaml"), "--keep"], "--keep: only with"),
    "a dry run without its data": (["--dry-run", "--data", "/nix"], "--data /nix: no such folder of this machine"),
    "no such cluster file": (["--cluster", "clusters/none.yaml"], "clusters/none.yaml: cannot be read"),
    "data folder without downloads": (["--data", "tests"], "problems in"),
    "a running cluster to simulate": (
        ["--simulate", str(ROOT / "clusters/existing.yaml")],
        "the machines of a cluster that runs are not in its file",
    ),
    "the paper on cores to simulate": (
        ["--simulate", "CORES", "--preset", "paper"],
        "no GPU; expected one, since how long trainings of --preset paper take is known for GPUs alone",
    ),
    "a folder for a cluster of machines": (["--cluster", str(ROOT / "clusters/aws.yaml"), "--yes"], "s3://"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_one_clear_line_and_exit_code_2(kind, capsys, tmp_path):
    arguments, message = REFUSED[kind]
    cores = tmp_path / "cores.yaml"
    cores.write_text("kind: local\nnum_gpus: 0\n")
    arguments = [str(cores) if argument == "CORES" else argument for argument in arguments]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_a_folder_is_bad_input(capsys, tmp_path):
    (tmp_path / "file").touch()
    for output in ("file", "file/run"):
        assert main(["--output", str(tmp_path / output)]) == 2
        assert "is a file; expected a folder or a prefix of a bucket" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["{bad", "[]"])
def test_a_damaged_record_of_a_run_is_named(capsys, tmp_path, record):
    (tmp_path / run_paths.RUN).write_text(record)
    assert main(["--output", str(tmp_path)]) in {1, 2}
    assert f"{tmp_path}/{run_paths.RUN}: not " in capsys.readouterr().err


def test_names_of_trainings_are_whole_in_a_narrow_window(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["--dry-run", "--only", "T3-infection-nsclc-pe-fold4"]) == 0
    assert "T3-infection-nsclc-pe-fold4" in capsys.readouterr().out


def test_machines_are_not_started_where_nobody_can_answer(tmp_path, monkeypatch, capsys):
    def ask(request, *, confirm, **_):
        return confirm("machines that cost money")

    def closed(*_, **__):
        raise EOFError

    monkeypatch.setattr("orchestrator.cluster.aws.launch.launch_and_follow", ask)
    monkeypatch.setattr("rich.console.Console.input", closed)
    assert main(["--cluster", str(ROOT / "clusters/aws.yaml"), "--output", "s3://bucket/run"]) == 2
    assert "nobody can answer whether to start machines; expected --yes" in capsys.readouterr().err


def test_failures_end_with_their_log_and_the_command_that_tries_them_again(capsys, tmp_path, monkeypatch):
    output = tmp_path / "a run"
    # What is there may be the log of an earlier attempt: the failure brings its own.
    open_storage(output).write_bytes(run_paths.log("T1-lung-fold1"), b"of another attempt")

    def fail(request, *, connect, listener):
        return RunOutcome(
            num_done=4,
            failures={"train T1-lung-fold1": "MemoryError: no memory\nline 1\nline 2", "ingest x/y": "DataError: x"},
            lost_trainings=("T1-lung-fold1",),
            unpredicted={},
            tables=(),
            report="",
            elapsed_s=1.0,
        )

    monkeypatch.setattr("orchestrator.driver.run.run", fail)
    assert main(["--output", str(output), "--only", "T1-lung-fold*", "--seed", "3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:-1] == [
        "failed: train T1-lung-fold1: MemoryError: no memory",
        "    line 1",
        "    line 2",
        "failed: ingest x/y: DataError: x",
    ]
    command = f"orchestrator run --output '{output}' --seed 3 --only T1-lung-fold1"
    assert lines[-1] == f"To try only these again: {command}"


def test_a_case_without_a_score_is_told_and_is_exit_code_1(capsys, tmp_path, monkeypatch):
    def lack(request, *, connect, listener):
        return RunOutcome(
            num_done=1,
            failures={},
            lost_trainings=(),
            unpredicted={"T1-lung-fold1": "1 without a score, the first test a/b: DataError: [cut short]"},
            tables=(),
            report="",
            elapsed_s=1.0,
        )

    monkeypatch.setattr("orchestrator.driver.run.run", lack)
    assert main(["--output", str(tmp_path), "--only", "T1-lung-fold1"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "1 of 1 trainings done, 1 s.",
        "incomplete: T1-lung-fold1: 1 without a score, the first test a/b: DataError: [cut short]",
        "To try these cases again: mend what is named, remove results/TRAINING.parquet and predictions/TRAINING/ of "
        "each, and give the same command.",
    ]


def test_the_help_names_the_clusters_that_are_tried(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "with 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 or 64 of its GPU machines" in " ".join(
        capsys.readouterr().out.split()
    )


def test_an_unknown_option_is_a_usage_error():
    with pytest.raises(SystemExit) as caught:
        main(["--presett", "smoke"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("{python} --dry-run --matrix all | head -1 > /dev/null", 0, ""),
        ("ulimit -f 0; exec {python} --dry-run > {folder}/x", 1, "<stdout>: File too large; the rest is not shown\n"),
        ("PYTHONIOENCODING=latin-1 {python} --simulate clusters/local.yaml > /dev/null", 0, ""),
    ],
)
def test_an_output_that_takes_nothing_more_ends_nothing(line, code, told, tmp_path):
    command = line.format(python=f"{sys.executable} -m orchestrator.run_all", folder=tmp_path)
    shell = ["bash", "-o", "pipefail", "-c", command]
    ended = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (code, told)


def test_a_driver_that_was_launched_names_the_cluster_file_of_who_launched_it(monkeypatch):
    options = build_parser().parse_args(["--cluster", "/home/ubuntu/nnunet-launch/cluster.yaml", "--preset", "quick"])
    assert "/home/ubuntu/nnunet-launch/cluster.yaml" in command_for(options, ["T1-lung-fold0"])
    monkeypatch.setenv(LAUNCHED_FROM, "my_aws.yaml")
    command = command_for(options, ["T1-lung-fold0"])
    assert command[command.index("--cluster") + 1] == "my_aws.yaml"


def test_a_miniature_leaves_the_gpus_of_this_machine_alone_unless_they_are_asked_for(tmp_path):
    def gpus(*arguments):
        return select(build_parser().parse_args(arguments)).cluster.num_gpus

    asked = tmp_path / "cluster.yaml"
    asked.write_text("kind: local\nnum_gpus: 1\n")
    assert (gpus(), gpus("--preset", "paper", "--data", str(tmp_path))) == (0, None)
    assert gpus("--cluster", str(asked)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU of this machine")
def test_a_gpu_that_torch_cannot_use_is_told_before_every_training_fails(capsys, tmp_path):
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("kind: local\nnum_cpus: 2\nnum_gpus: 1\n")
    assert main(["--cluster", str(cluster), "--only", "T1-lung-fold0", "--output", str(tmp_path / "run")]) == 2
    assert "finds no GPU that it can use, though Ray offers one" in capsys.readouterr().err
    assert not list((tmp_path / "run" / "trainings").glob("*"))


def test_a_dry_run_counts_the_epochs_of_each_model_and_notes_what_comes_after_the_last_one(capsys, tmp_path):
    path = shutil.copytree(shipped_file("splits", "brain_mri"), tmp_path / "brain") / "study.yaml"
    schedule = "[{from_epoch: 1, momentum: 0.9}, {from_epoch: 2, momentum: 0.8}]"
    text = path.read_text().replace("unet: {}", f"unet: {{preset: {{num_epochs: 2, schedule: {schedule}}}}}")
    path.write_text(f"{text}presets: {{looked: {{like: smoke, num_epochs: 4, curve_every: 4}}}}\n")
    words = ["--study", str(path), "--preset", "looked", "--dry-run"]
    assert main(words) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "no effect" in line] == [
        "note: unet: curve_every 4 has no effect: it is trained 2 epochs",
        "note: unet: schedule from epoch 2 has no effect: it is trained 2 epochs",
    ]
    assert main([*words, "--json"]) == 0
    hours = {row["id"]: row["expected_hours"] for row in json.loads(capsys.readouterr().out)}
    assert hours["tumour-resenc-fold0"] == pytest.approx(2 * hours["tumour-fold0"], abs=1e-4)
