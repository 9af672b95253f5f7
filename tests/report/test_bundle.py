"""A bundle is the same bytes for the same run, tells nothing of a machine, and is checked without the run."""

import csv
import io
import json
import socket
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from raw_datasets import write_dataset

from bench.bundle.changes import repacked
from bench.bundle.sealed_run import sealed, sealed_run
from orchestrator.benchmark import study_file
from orchestrator.bundle.archive import read_archive
from orchestrator.bundle.differences import differences
from orchestrator.bundle.names import CRATE, MANIFEST, RUN
from orchestrator.bundle.redaction import redacted
from orchestrator.bundle.seal import check_bundle, write_bundle
from orchestrator.bundle.study_files import files_beside
from orchestrator.cli.results.bundle import main
from orchestrator.configuration import Entry
from orchestrator.errors import ConfigError, DataError
from orchestrator.shipped import shipped_file
from orchestrator.storage.filesystem import open_storage

pytest_plugins = ["bucket_fixtures"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return sealed(tmp_path_factory.mktemp("a place"))[0]


@pytest.fixture(scope="module")
def files(bundle) -> dict[str, bytes]:
    return dict(read_archive(bundle).files)


def test_equal_runs_are_equal_bytes_and_whole(bundle, tmp_path: Path):
    elsewhere, made = sealed(tmp_path / "elsewhere")
    assert elsewhere.read_bytes() == bundle.read_bytes()
    found = check_bundle(bundle)
    assert (found.problems, found.notes) == ((), ())
    assert found.sha256 == made.sha256 == sha256(bundle.read_bytes()).hexdigest()
    assert found.num_files == made.num_files == len(zipfile.ZipFile(bundle).namelist())


def test_nothing_in_it_tells_of_machines_places_or_people(bundle, files):
    raw = bundle.read_bytes()
    for telling in (b"secret", b"10.1.2.3", str(bundle.parent).encode(), b"a place", str(Path.home()).encode() + b"/"):
        assert raw.count(telling) == 0
    assert "…/predictions/x.nii.gz: no NIfTI file, seen by … at (machine)" in files["report/scores.csv"].decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/ct/case_1.nii.gz: short", "case_1.nii.gz: short"),
        ("in /home/ann, of clinic/case_1", "in …, of clinic/case_1"),
        ("s3://key:word@bucket/run/a.json (404)", "a.json (404)"),
        ("https://host:99/x?token=abc", "…"),
        (r"C:\Users\ann\case.nii.gz and \\server\share\b.nii", "case.nii.gz and b.nii"),
        ("~/ct/a.mha", "a.mha"),
        ("'/data/x y.nii'", "'… y.nii'"),
        ("worker 10.0.0.7:6379 and ip-10-0-0-7 died", "worker (machine) and (machine) died"),
        ("AKIAABCDEFGHIJKLMNOP", "(key)"),
        ("NSD 0.93 at 1 mm, 3/4 of 12 cases, 2026-11-29", "NSD 0.93 at 1 mm, 3/4 of 12 cases, 2026-11-29"),
    ],
)
def test_paths_addresses_machines_and_keys_are_taken_out_of_texts(text, expected):
    assert redacted(text) == expected


def test_a_study_file_with_a_path_of_this_machine_is_refused(tmp_path: Path):
    study = tmp_path / "study" / "study.yaml"
    request = sealed_run(tmp_path)
    study.write_text(f"{study.read_text()}# made from {request.output}/x\n")
    with pytest.raises(ConfigError, match=r"study/study\.yaml: holds the path"):
        write_bundle(request, open_storage(request.output), target=tmp_path / "x.zip")


def test_the_manifest_is_what_sha256sum_reads_and_the_crate_describes_each_file(files):
    lines = files["manifest-sha256.txt"].decode().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert listed == {
        name: sha256(content).hexdigest() for name, content in files.items() if name != "manifest-sha256.txt"
    }
    graph = {entity["@id"]: entity for entity in json.loads(files["ro-crate-metadata.json"])["@graph"]}
    assert {part["@id"] for part in graph["./"]["hasPart"]} == {*listed} - {"ro-crate-metadata.json"}
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert graph["./"]["datePublished"] == "2026-11-04"
    assert graph["results/lesion-fold0.parquet"]["sha256"] == listed["results/lesion-fold0.parquet"]
    assert graph["#training-lesion-fold0"]["result"] == {"@id": "results/lesion-fold0.parquet"}
    assert {part["@id"] for part in graph["./"]["mentions"]} == {name for name in graph if name.startswith("#training")}


def _ids(value: object) -> Iterator[str]:
    """Yield what a property of an entity refers to."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            assert one.keys() == {"@id"}, "entities are not nested"
            yield one["@id"]


def test_whatever_the_crate_refers_to_is_described_once_and_has_a_name(files):
    """As RO-Crate 1.1 wants it: flat JSON-LD, where what is not a web page of its own is an entity of the graph."""
    graph = json.loads(files[CRATE])["@graph"]
    ids = [entity["@id"] for entity in graph]
    assert len(set(ids)) == len(ids)
    named = {entity["@id"] for entity in graph if entity.get("name")} | {CRATE}
    referred = {id_ for entity in graph for value in entity.values() for id_ in _ids(value)}
    assert set(ids) == named
    assert referred - named == {"https://w3id.org/ro/crate/1.1"}


def test_splits_and_origins_stand_in_it(files):
    splits = json.loads(files["splits.json"])
    assert splits["lesion-fold1"]["val"] == [f"clinic/case_{number:02d}" for number in (1, 4, 7, 10)]
    origins = json.loads(files["trainings.json"])
    assert origins["lesion-fold1"]["versions"]["nnunetv2"] == "2.8.1"
    assert origins["lesion-fold1"]["split_sha256"] == splits["lesion-fold1"]["sha256"]
    scores = list(csv.DictReader(files["report/scores.csv"].decode().splitlines()))
    assert len(scores) == 2 * 12


def test_a_changed_cell_is_named_with_its_line_also_where_all_digests_are_made_anew(bundle, files, tmp_path: Path):
    changed = dict(files)
    table = changed["tables/results.md"].decode().splitlines()
    place = next(i for i, line in enumerate(table) if line.startswith("| lesion |"))
    cells = table[place].split(" | ")
    cells[5] = "99.9 ± 0.1"
    changed["tables/results.md"] = ("\n".join([*table[:place], " | ".join(cells), *table[place + 1 :]]) + "\n").encode()
    problems = check_bundle(repacked(changed, tmp_path / "x.zip", with_digests=True)).problems
    (found,) = [one for one in problems if one.startswith("tables/results.md")]
    assert f"line {place + 1}, cell 7" in found
    assert "found '99.9 ± 0.1'" in found


def test_the_last_digits_of_other_versions_of_numpy_are_no_change_of_a_table():
    assert differences("a.csv", b"x,0.1234567890123\n", b"x,0.1234567890124\n") == []
    assert differences("a.json", b' "m": 0.5000000000001,\n', b' "m": 0.5000000000002,\n') == []
    assert differences("a.csv", b"x,0.12345\n", b"x,0.12346\n") == [
        "a.csv: line 1, cell 2 (x,0.12346...): found '0.12345', calculated '0.12346'"
    ]
    (line,) = differences("a.csv", b"a\nc\n", b"a\nb\nc\n")
    assert line == "a.csv: line 2: missing; calculated 'b'"


@pytest.mark.parametrize(
    ("found", "calculated"),
    [
        ("a|0.5", "a,0.5"),
        ("<td>0.5</th>", "<td>0.5</td>"),
        ("x,1_234", "x,1234"),
        ("x, 0.97", "x,0.97"),
        ("x,9.7e-1", "x,0.97"),
        ("x,0.970", "x,0.97"),
        ("x,20.0", "x,20"),
        ("x,12345678901", "x,12345678902"),
    ],
)
def test_how_a_number_is_written_and_what_is_between_cells_is_part_of_a_table(found, calculated):
    (line,) = differences("a.csv", found.encode(), calculated.encode())
    assert line.startswith("a.csv: line 1, cell ")


def _rewritten(content: bytes, *, note: str = "", **written: str | bool) -> bytes:
    table, buffer = pq.read_table(io.BytesIO(content)), io.BytesIO()
    if note:
        table = table.replace_schema_metadata({**table.schema.metadata, b"note": note.encode()})
    pq.write_table(table, buffer, **{"compression": "zstd", **written})
    return buffer.getvalue()


def test_what_is_written_beside_the_rows_of_a_table_and_how_they_are_compressed_is_named(files):
    content = files["report/scores.parquet"]
    (line,) = differences("a.parquet", _rewritten(content, note="B is better"), content)
    assert "B is better" in line
    assert differences("a.parquet", _rewritten(content, compression="snappy"), content) == [
        "a.parquet: compressed by SNAPPY; calculated ZSTD"
    ]


def test_other_bytes_of_the_same_values_are_a_note_and_no_change(files, tmp_path: Path):
    """As another build of pyarrow may write them, on a machine that is to find the bundle whole."""
    name = "report/scores.parquet"
    changed = {**files, name: _rewritten(files[name], use_dictionary=False)}
    found = check_bundle(repacked(changed, tmp_path / "x.zip", with_digests=True))
    assert found.problems == ()
    assert found.notes == (f"{name}: other bytes, same values, as another build of numpy or pyarrow writes them",)


def test_lines_of_the_manifest_in_another_order_are_named(files, tmp_path: Path):
    lines = files[MANIFEST].splitlines(keepends=True)
    changed = {**files, MANIFEST: b"".join(reversed(lines))}
    (line,) = check_bundle(repacked(changed, tmp_path / "x.zip", with_digests=False)).problems
    assert line.startswith(f"{MANIFEST}: not as a bundle writes it")


def test_figures_of_another_version_of_matplotlib_are_not_compared():
    found, expected = b"<p>1</p><svg a>\nx</svg><p>2</p>", b"<p>1</p><svg b>\ny</svg><p>2</p>"
    assert differences("index.html", found, expected, with_figures=False) == []
    assert len(differences("index.html", found, expected)) == 2


def _link(path: Path) -> None:
    member = zipfile.ZipInfo("run.json")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(member, "/etc/passwd")


def _outside(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("../run.json", "{}")


def _twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("run.json", "{}")
        target.writestr("RUN.json", "{}")


@pytest.mark.parametrize("write", [_link, _outside, _twice, lambda path: path.write_bytes(b"PK"), lambda path: None])
def test_links_names_that_lead_elsewhere_and_no_zips_are_refused_in_a_line(write, tmp_path: Path, capsys):
    write(tmp_path / "x.zip")
    with pytest.raises(DataError, match=r"x\.zip"):
        check_bundle(tmp_path / "x.zip")
    assert main(["--verify", str(tmp_path / "x.zip")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_file_that_grows_when_it_is_unpacked_is_not_unpacked(files, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", compression=zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
        target.writestr("study/zeros", b"0" * 10_000_000)
    with pytest.raises(DataError, match="packed anew by another program"):
        check_bundle(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as target:
        for name, content in files.items():
            target.writestr(name, content)
        target.writestr("study/zeros", b"0" * 10_000_000, compress_type=zipfile.ZIP_DEFLATED)
    assert "study/zeros: not stored as a bundle stores its files" in check_bundle(tmp_path / "x.zip").problems


def test_the_command_seals_and_checks(tmp_path: Path, capsys, monkeypatch):
    request = sealed_run(tmp_path)
    monkeypatch.setattr("orchestrator.cli.results.bundle.request_of_run", lambda storage, study: request)
    target, license_url = str(tmp_path / "new" / "x.zip"), "https://creativecommons.org/licenses/by/4.0/"
    assert main(["--output", request.output, "--license", license_url, target]) == 0
    seal = capsys.readouterr().out.split("SHA-256 ")[1].strip()
    assert main(["--verify", target, "--sha256", seal]) == 0
    with zipfile.ZipFile(target) as opened:
        assert f"whole; {len(opened.namelist())} files" in capsys.readouterr().out
    assert main(["--verify", target, "--sha256", "0" * 64]) == 1
    assert "not the one that was published" in capsys.readouterr().out
    assert main(["--output", request.output, "--license", "mine", target]) == 2
    assert main(["--output", str(tmp_path / "nothing"), target]) == 2


def test_a_run_without_scores_is_no_bundle(tmp_path: Path):
    request = sealed_run(tmp_path)
    for path in (tmp_path / "run" / "results").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="no training has scores yet"):
        write_bundle(request, open_storage(request.output), target=tmp_path / "x.zip")


def in_bucket(folder: Path, bucket) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes())


def without_network(monkeypatch) -> None:
    def refused(*_):
        raise AssertionError("a bundle is checked without a network")

    monkeypatch.setattr(socket.socket, "connect", refused)


def test_a_run_in_a_bucket_has_the_bundle_of_the_same_run_in_a_folder(tmp_path: Path, s3_storage, monkeypatch):
    request = sealed_run(tmp_path)
    in_bucket(tmp_path / "run", s3_storage)
    in_folder, elsewhere = tmp_path / "folder.zip", tmp_path / "bucket.zip"
    write_bundle(request, open_storage(request.output), target=in_folder)
    write_bundle(replace(request, output=s3_storage.location), s3_storage, target=elsewhere)
    one, other = (dict(read_archive(path).files) for path in (in_folder, elsewhere))
    assert one.keys() == other.keys()
    # Messages of its rows name the folder, of which nothing is told where the run is in a bucket.
    changed = {name for name, content in one.items() if other[name] != content}
    with_them = {"report/scores.csv", "report/scores.parquet", RUN, CRATE, MANIFEST}
    assert {name for name in changed if not name.startswith("results/")} <= with_them
    assert str(tmp_path).encode() not in elsewhere.read_bytes()
    assert s3_storage.location.encode() not in elsewhere.read_bytes()
    without_network(monkeypatch)
    assert check_bundle(elsewhere).problems == ()


RAW_STUDY = """
title: Things of a clinic
datasets:
  things: {nnunet: Dataset137_Things, folds: {number: 3}, patients: patients.csv, held_out: {later: [case_11]}}
models: {3d: {}, 2d: {configuration: 2d, suffix: -2d}}
trainings:
  things: {train: [things/other-folds], val: [things/fold], test: {later: things/later}}
"""


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_run_of_nnunets_data_sets_is_checked_without_them(tmp_path: Path, s3_storage, monkeypatch, place):
    names = tuple(f"case_{number:02d}" for number in range(12))
    write_dataset(tmp_path / "raw", names=names, channels=("CT",))
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text(RAW_STUDY)
    patients = "".join(f"{name},patient_{number // 2}\n" for number, name in enumerate(names))
    (tmp_path / "study" / "patients.csv").write_text(f"case,patient\n{patients}")
    if place == "bucket":
        in_bucket(tmp_path / "raw", s3_storage)
    request = sealed_run(tmp_path, data=str(tmp_path / "raw") if place == "folder" else s3_storage.location)
    target = tmp_path / "sealed.zip"
    write_bundle(request, open_storage(request.output), target=target)
    (tmp_path / "raw").rename(tmp_path / "gone")
    without_network(monkeypatch)
    assert check_bundle(target).problems == ()
    files = dict(read_archive(target).files)
    assert set(json.loads(files["study/described_datasets.json"])) == {"Dataset137_Things"}
    assert "study/patients.csv" in files
    # What the data set has said counts: with another label it is another study.
    said = files["study/described_datasets.json"].replace(b'"small"', b'"tiny"')
    assert said != files["study/described_datasets.json"]
    repacked({**files, "study/described_datasets.json": said}, target, with_digests=True)
    assert check_bundle(target).problems


def test_every_file_that_the_shipped_study_names_goes_with_it():
    beside = files_beside(shipped_file("splits", "covid19", "study.yaml"))
    there = {path.name for path in shipped_file("splits", "covid19").iterdir() if path.is_file()}
    assert set(beside) == there - {"study.yaml"}


NAMES_FILES = """
title: Things of clinics
datasets:
  a: {nnunet: Dataset001_A, folds: {file: splits_final.json}, patients: patients_of_a.csv}
  b: {nnunet: Dataset002_B, folds: {number: 3, patients: patients_of_b.csv}}
trainings: {things: {train: [a/fold, b/fold]}}
"""
NAMED = ("folds.yaml", "tables.yaml", "splits_final.json", "patients_of_a.csv", "patients_of_b.csv")
NAMED_BY_TABLES = ("scores.csv", "errata.yaml", "own.bib")


def test_every_file_that_a_study_can_name_goes_with_it(tmp_path: Path):
    (tmp_path / "study.yaml").write_text(NAMES_FILES)
    for name in (*NAMED, *NAMED_BY_TABLES):
        (tmp_path / name).write_text("")
    (tmp_path / "tables.yaml").write_text("{published: {scores: scores.csv, errata: errata.yaml}, references: own.bib}")
    assert files_beside(tmp_path / "study.yaml") == (*NAMED, *NAMED_BY_TABLES)


def test_what_is_said_to_be_a_file_beside_the_study_has_the_mark_by_which_it_is_found():
    entries = [entry for entry in vars(study_file).values() if isinstance(entry, type) and issubclass(entry, Entry)]
    fields = [field for entry in entries for field in entry.model_fields.values()]
    beside = [field for field in fields if "beside this" in (field.description or "")]
    assert len(beside) == 6
    assert all(map(study_file.names_a_file, beside))
