"""Claims about what other programs and schedulers leave to a command: streams, variables, links, odd files."""

import errno
import io
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.bundle.redaction import telling_locations
from orchestrator.cli import doctor, evaluate, phantoms, predict, run, status, verify
from orchestrator.cli.console import consoles, say
from orchestrator.cluster.batch.system import user_name
from orchestrator.cluster.environment import AUTH_TOKEN_PATH, token_path
from orchestrator.configuration import MAX_YAML_BYTES, load_yaml
from orchestrator.errors import ConfigError, IntegrityError, StorageError
from orchestrator.processes import environment_with, settle_thread_numbers
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import read_json

DRY_RUN = f"exec {sys.executable} -m orchestrator.run_all --dry-run --only T1-lung-fold0"
COMMANDS = {
    module.__name__.rpartition(".")[2]: module for module in (run, evaluate, predict, status, verify, doctor, phantoms)
}


def shell(line, **more):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | more
    return subprocess.run(
        ["sh", "-c", line], env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_leads_nowhere_and_ends_nothing(closed):
    ran = shell(f"{DRY_RUN} {closed}")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ("T1-lung-fold0" in ran.stdout) == (">&-" not in closed.split())


def test_a_command_whose_output_cannot_be_written_has_not_succeeded():
    ran = shell(f"{DRY_RUN} --json > /dev/full")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "<stdout>: No space left on device; the rest is not shown\n"


def test_a_reader_who_has_seen_enough_is_no_failure():
    # The reader is gone before anything is written.
    command = DRY_RUN.removeprefix("exec ")
    ran = shell(f"{{ sleep 1; {command}; echo $? >&2; }} | true")
    assert (ran.returncode, ran.stderr) == (0, "0\n")


def test_a_terminal_that_does_not_know_its_size_is_written_to():
    ran = shell(DRY_RUN, COLUMNS="0", LINES="0")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "T1-lung-fold0" in ran.stdout


def test_kernels_are_compiled_where_everything_else_is_debugged_as_python():
    program = "import numpy as np, kernels; one = np.ones((2, 2, 2), bool); print(kernels.dice(one, one))"
    ran = shell(f'exec {sys.executable} -c "$PROGRAM"', NUMBA_DISABLE_JIT="1", PROGRAM=program)
    assert (ran.returncode, ran.stdout) == (0, "1.0\n"), ran.stderr


def test_a_python_without_texts_is_refused_before_anything_is_done(tmp_path):
    line = f"exec {sys.executable} -m orchestrator.run_all --only T1-lung-fold0 --output {tmp_path}/run"
    ran = shell(line, PYTHONOPTIMIZE="2")
    assert ran.returncode == 2
    assert "error: PYTHONOPTIMIZE is 2, or -OO was given, with which Ray cannot be imported" in ran.stderr
    assert not list((tmp_path / "run").glob("cases/*"))


@pytest.mark.parametrize("error", [errno.EFBIG, errno.EIO, errno.ESTALE])
def test_what_a_limit_or_a_disk_says_of_a_file_that_is_written_is_one_line(tmp_path, error):
    def write():
        with open_storage(tmp_path).writing("x.csv"):
            raise OSError(error, os.strerror(error))

    with pytest.raises(StorageError, match=rf"x\.csv: cannot write it: {os.strerror(error)}$"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("action", ["exists", "fetch", "list_keys"])
def test_what_a_server_or_a_closed_folder_says_of_a_file_that_is_looked_for_is_one_line(
    tmp_path, monkeypatch, action, error
):
    (tmp_path / "folder").mkdir()
    look = Mock(side_effect=OSError(error, os.strerror(error)))
    monkeypatch.setattr(Path, "stat", look)
    monkeypatch.setattr(Path, "lstat", look)
    with pytest.raises(StorageError, match=rf": cannot (look at|list) it: {os.strerror(error)}$"):
        getattr(open_storage(tmp_path), action)("" if action == "list_keys" else "folder/x.csv")


def test_a_user_without_a_home_and_a_name_is_told_to_set_one_or_counted_by_number(monkeypatch):
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", AUTH_TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    no_entry = Mock(side_effect=KeyError("getpwuid(): uid not found: 54321"))
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(ConfigError, match="auth_token: HOME is not set, and user 54321 has no home folder"):
        token_path()
    assert telling_locations("/data/secret") == ("/data/secret",)
    assert user_name() == "54321"


def test_what_is_opened_next_does_not_get_the_number_of_a_closed_stream(tmp_path):
    program = (
        "import os; from orchestrator.cli.console import consoles; consoles(); "
        f"file = open({str(tmp_path / 'data')!r}, 'wb'); os.write(1, b'noise'); os.write(2, b'noise')"
    )
    ran = shell(f'exec {sys.executable} -c "$PROGRAM" >&- 2>&- <&-', PROGRAM=program)
    assert ran.returncode == 0
    assert (tmp_path / "data").read_bytes() == b""


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-2", "cp437"])
def test_letters_that_a_terminal_does_not_know_are_question_marks(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    output, _ = consoles()
    say("Sj\u00f8gren\udce4.nii.gz: done", console=output)
    stream.flush()
    assert stream.buffer.getvalue() == b"Sj?gren?.nii.gz: done\n"


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("4", "4"),
        ("4,2", "4"),
        (" 8 ,1", "8"),
        ("0", None),
        ("", None),
        ("auto", None),
        ("-1", None),
        ("9" * 5000, None),
    ],
)
def test_numbers_of_threads_are_plain_numbers_or_nothing(value, left):
    environment = {"OMP_NUM_THREADS": value, "OTHER": "4,2"}
    settle_thread_numbers(environment)
    assert (environment.get("OMP_NUM_THREADS"), environment["OTHER"]) == (left, "4,2")


def test_libraries_can_be_imported_whatever_the_number_of_threads():
    ran = shell(f"exec {sys.executable} -c 'import orchestrator, blosc2, numba'", OMP_NUM_THREADS="4,2")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "option"),
    [
        *(("run", [option, ""], option) for option in ("--output", "--data", "--only", "--preset", "--cluster")),
        ("run", ["--dry-run", "--output="], "--output"),
        ("run", ["--only", "T1-*", "--only", "  "], "--only"),
        ("evaluate", ["--reference", "", "--prediction", "p", "--label", "1=1"], "--reference"),
        ("evaluate", ["--reference", "r", "--prediction", "p", "--label", "1=1", "--output", ""], "--output"),
        *((command, ["--output", ""], "--output") for command in ("status", "verify", "phantoms")),
        ("doctor", ["--data", ""], "--data"),
    ],
)
def test_an_empty_value_is_refused_with_one_line(command, arguments, option, capsys):
    with pytest.raises(SystemExit) as caught:
        COMMANDS[command].main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {option}: found an empty value; leave it out or name one\n"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        *(("run", ["--dry-run", option, "loop"]) for option in ("--output", "--data", "--cluster")),
        ("run", ["--simulate", "loop"]),
        ("evaluate", ["--reference", "loop", "--prediction", "loop", "--label", "1=1"]),
        *((command, ["--output", "loop"]) for command in ("status", "verify", "phantoms")),
        ("phantoms", ["--output", "loop/x"]),
        ("doctor", ["--data", "loop"]),
    ],
)
def test_links_in_a_circle_are_refused_with_one_line(command, arguments, tmp_path, monkeypatch, capsys):
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    assert COMMANDS[command].main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "loop" in line


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("run", []), ("run", ["--dry-run"]), ("predict", ["images", "--model", "model"]), ("phantoms", [])],
)
def test_an_output_that_is_no_text_is_refused_with_one_line(command, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert COMMANDS[command].main([*arguments, "--output", os.fsdecode(b"M\xfcller/x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --output '")
    assert "M\\udcfcller/x': not text in UTF-8" in line
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_no_text_in_a_locale_of_ascii_is_refused_with_one_line():
    ran = shell(f"{DRY_RUN} --output rün", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert ran.returncode == 2
    assert "set LC_ALL=C.UTF-8 where its name is right" in ran.stderr


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_names_beyond_ascii_and_beyond_utf_8_are_scored_in_any_locale(tmp_path, locale):
    mask = np.zeros((6, 6, 6), dtype=np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / "mask.nii.gz"))
    content = (tmp_path / "mask.nii.gz").read_bytes()
    for folder in ("référence", "prédiction"):
        (tmp_path / folder).mkdir()
        for name in ("fäll.nii.gz".encode(), "fäll.nii.gz".encode("latin-1")):
            Path(os.fsdecode(os.fsencode(tmp_path / folder) + b"/" + name)).write_bytes(content)
    line = f"{sys.executable} -m orchestrator.evaluate --reference référence --prediction prédiction --label 1=1.0"
    ran = shell(f"cd {tmp_path} && exec {line} --output scores.csv", **locale)
    assert ran.returncode == 0, ran.stderr
    assert "2 scored" in ran.stdout
    rows = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert sorted(row.split(",")[1] for row in rows[1:]) == ['"fäll.nii.gz"', '"f\ufffdll.nii.gz"']


def bomb():
    """Nine levels of nine: 400 million values in 300 bytes."""
    levels = [
        f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    return "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]", *levels])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bomb(), "aliases stand for more than"),
        ("&a [*a]", "aliases stand for more than"),
        ("&a {x: *a}", "aliases stand for more than"),
        ("[" * 20000, "nested too deep"),
        ("\n".join(" " * level + "a:" for level in range(1200)), "nested too deep"),
        ("#" * (MAX_YAML_BYTES + 1), "more than"),
        ("a: 1\nb: 2\na: 3\n", "key 'a' stands twice"),
        ("? [a]\n: 1\n", "is no text"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
    ],
)
def test_yaml_that_means_too_much_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "cluster.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_yaml_that_is_no_file_is_refused():
    with pytest.raises(ConfigError, match="not a file"):
        load_yaml(Path("/dev/zero"))


def test_aliases_and_merged_keys_of_ordinary_size_are_read(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n")
    whole = {"x": 1, "y": 2}
    assert load_yaml(tmp_path / "x.yaml") == {"a": whole, "b": {"x": 1, "y": 3}, "c": [whole, whole]}


def test_the_time_for_many_keys_grows_with_their_number(tmp_path):
    def cpu_s(number):
        path = tmp_path / f"{number}.yaml"
        path.write_text("".join(f"k{index}: 1\n" for index in range(number)))
        begin_s = time.process_time()
        assert len(load_yaml(path)) == number
        return time.process_time() - begin_s

    cpu_s(100)
    # Ten times as many took a hundred times as long where each was looked for among all.
    assert cpu_s(20_000) < 30 * cpu_s(2_000)


def test_json_that_is_nested_too_deep_is_no_json(tmp_path):
    storage = open_storage(tmp_path)
    storage.write_bytes("x.json", b"[" * 100_000)
    with pytest.raises(IntegrityError, match=r"x\.json: not JSON"):
        read_json(storage, "x.json")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("2.5E+3", 2500.0),
        ("-.5", -0.5),
        ("12", 12),
        ("0", 0),
        # Times and padded numbers are what they look like; of YAML 1.1, they would be 90, 14400 and 8.
        ("1:30", "1:30"),
        ("4:00:00", "4:00:00"),
        ("010", "010"),
        # Part of a digest.
        ("12345e67", "12345e67"),
        ("0x1f", "0x1f"),
    ],
)
def test_numbers_of_a_file_are_what_they_look_like(tmp_path, text, value):
    path = tmp_path / "x.yaml"
    path.write_text(f"a: {text}\n")
    assert load_yaml(path) == {"a": value}


def test_an_environment_is_as_before_after_a_context_with_another(monkeypatch):
    before, within = {"ONE": "old", "TWO": "hidden", "THREE": None}, {"ONE": "new", "TWO": None, "THREE": "more"}
    for name in ("ONE", "TWO"):
        monkeypatch.setenv(name, before[name])
    monkeypatch.delenv("THREE", raising=False)
    with environment_with(within):
        assert {name: os.environ.get(name) for name in within} == within
    with pytest.raises(ZeroDivisionError), environment_with(within):
        _ = 1 / 0
    assert {name: os.environ.get(name) for name in before} == before
