"""Committed rows come back as they were; damaged ones do not; statistics are the paper's."""

import io
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.results.aggregate import summarise
from orchestrator.results.records import CaseScore, Provenance, ResultRow, ScoreStatus
from orchestrator.results.store import SCHEMA, ResultsStore, from_table, to_table
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

PROVENANCE = Provenance(
    preset="smoke",
    seed=7,
    versions='{"nnunetv2": "2.8.1"}',
    data_sha256="d",
    split_sha256="s",
    plan_sha256="p",
    checkpoint_sha256="c",
    phantoms=True,
    is_capped=True,
    train_elapsed_s=12.5,
)


def row(dsc, nsd, *, case="coronacases_001", fold=0, status=ScoreStatus.SCORED, message=""):
    score = CaseScore(
        structure="left_lung",
        status=status,
        dsc=dsc,
        nsd=nsd,
        tolerance_mm=1.0,
        spacing_mm=(5.0, 0.75, 0.75),
        num_reference_voxels=100,
        num_predicted_voxels=90,
        message=message,
    )
    return ResultRow(
        training_id=f"T1-lung-fold{fold}",
        group="T1-lung",
        fold=fold,
        configuration="3d_fullres",
        facets={"task": 1, "subtask": "lung"},
        evaluation_set="test",
        dataset="covid-19-ct-seg",
        case=case,
        score=score,
        provenance=PROVENANCE,
    )


def missing(case="coronacases_001", fold=0):
    return row(math.nan, math.nan, case=case, fold=fold, status=ScoreStatus.MISSING, message="no prediction file")


def both_empty(case="coronacases_001"):
    return row(math.nan, math.nan, case=case, status=ScoreStatus.BOTH_EMPTY)


@pytest.fixture
def store(tmp_path):
    return ResultsStore(open_storage(tmp_path))


def test_committed_rows_come_back_as_they_were(store):
    rows = [row(0.875, 0.5), row(0.25, 0.125, case="radiopaedia_4_85506_1")]
    assert store.commit("T1-lung-fold0", rows)
    assert from_table(store.read()) == rows
    assert store.finished() == {"T1-lung-fold0"}


def test_a_missing_score_keeps_its_reason(store):
    store.commit("T1-lung-fold0", [missing()])
    (back,) = from_table(store.read())
    assert (back.score.status, back.score.message) == ("missing", "no prediction file")
    assert math.isnan(back.score.dsc)


def test_the_first_commit_of_a_training_stays(store):
    assert store.commit("T1-lung-fold0", [row(0.75, 0.5)])
    assert not store.commit("T1-lung-fold0", [row(0.25, 0.5)])
    assert store.read().column("dsc").to_pylist() == [0.75]


def test_trainings_are_read_in_order_of_their_ids(store):
    for fold in (2, 0, 1):
        store.commit(f"T1-lung-fold{fold}", [row(fold / 10, 0.5, fold=fold)])
    assert store.read().column("dsc").to_pylist() == [0.0, 0.1, 0.2]


def test_a_whole_number_that_only_some_trainings_have_stays_one(store):
    large = 2**53 + 1
    store.commit("T1-lung-fold0", [replace(row(0.5, 0.5), facets={"task": 1, "training_seed": large})])
    store.commit("T1-lung-fold1", [replace(row(0.5, 0.5, fold=1), facets={"task": 1})])
    frame = store.to_pandas()
    assert list(frame["training_seed"]) == [large, pd.NA]
    assert (frame["training_seed"].dtype, frame["task"].dtype, frame["fold"].dtype) == ("Int64", "int64", "int64")
    assert frame[["task", "training_seed"]].to_csv(index=False).split() == ["task,training_seed", f"1,{large}", "1,"]
    chosen = pd.DataFrame({"training_seed": [large, large - 1], "what": ["this", "none"]})
    assert frame.merge(chosen, on="training_seed")["what"].tolist() == ["this"]


def test_a_run_without_results_has_no_rows_and_all_columns(tmp_path, store):
    open_storage(tmp_path).write_bytes(f"{run_paths.EVENTS}/20200420T120000.000000-00000.jsonl", b"")
    assert store.finished() == set()
    assert store.read().schema.equals(SCHEMA)
    assert store.query("SELECT count(*) AS num_rows FROM scores").to_pylist() == [{"num_rows": 0}]


def test_where_there_is_no_run_there_are_no_results_to_ask(tmp_path, store):
    assert store.finished() == set()
    with pytest.raises(ConfigError, match=f"{tmp_path}: no results, and no run has been started there; expected the"):
        store.query("SELECT count(*) AS num_rows FROM scores")


def test_a_query_sees_the_rows_of_every_training(store):
    store.commit("T1-lung-fold0", [row(0.5, 0.5), row(0.7, 0.5)])
    store.commit("T1-lung-fold1", [row(0.9, 0.5, fold=1)])
    answer = store.query("SELECT fold, avg(dsc) AS dsc FROM scores GROUP BY fold ORDER BY fold").to_pylist()
    assert answer == [{"fold": 0, "dsc": pytest.approx(0.6)}, {"fold": 1, "dsc": pytest.approx(0.9)}]


def test_a_score_that_there_is_not_is_null_and_leaves_averages_alone(store):
    missing = row(math.nan, math.nan, case="radiopaedia_4_85506_1", status=ScoreStatus.MISSING, message="cut short")
    store.commit("T1-lung-fold0", [row(0.5, 0.25), missing])
    answer = store.query("SELECT avg(dsc) AS dsc, avg(nsd) AS nsd, count(*) AS rows, count(dsc) AS scored FROM scores")
    assert answer.to_pylist() == [{"dsc": 0.5, "nsd": 0.25, "rows": 2, "scored": 1}]
    assert math.isnan(from_table(store.read())[1].score.dsc)


def test_a_column_under_another_name_is_not_read(store):
    content = committed_bytes(store)
    # Facets may have any name: only the digest of the rows tells.
    assert content.count(b"subtask") > 1
    store._storage.write_bytes(run_paths.results("T1-lung-fold0"), content.replace(b"subtask", b"subtusk"))
    with pytest.raises(IntegrityError, match=r"fold0\.parquet: "):
        store.read()


def test_a_file_with_the_rows_of_another_training_is_not_counted_twice(tmp_path, store):
    store.commit("T1-lung-fold0", [row(0.5, 0.5)])
    storage = open_storage(tmp_path)
    storage.write_bytes(run_paths.results("copy"), storage.read_bytes(run_paths.results("T1-lung-fold0")))
    with pytest.raises(IntegrityError, match=r"copy\.parquet: rows of T1-lung-fold0; expected those of copy"):
        store.read()


def test_a_query_that_answers_nothing_is_refused(store):
    store.commit("T1-lung-fold0", [row(0.5, 0.5)])
    with pytest.raises(ConfigError, match="query '': answers nothing; expected a SELECT"):
        store.query("")


def test_a_query_that_is_not_sql_is_refused(store):
    store.commit("T1-lung-fold0", [row(0.5, 0.5)])
    with pytest.raises(ConfigError, match=r"query 'SELEC 1': Parser Error"):
        store.query("SELEC 1")


@pytest.mark.parametrize(("rows", "found"), [([], "no rows"), ([row(0.5, 0.5, fold=3)], "rows of T1-lung-fold3")])
def test_only_the_rows_of_the_training_can_be_committed(store, rows, found):
    with pytest.raises(IntegrityError, match=f"results/T1-lung-fold0.parquet: {found}; expected every row"):
        store.commit("T1-lung-fold0", rows)
    assert store.finished() == set()


def committed_bytes(store):
    store.commit("T1-lung-fold0", [row(i / 64, i / 128, case=f"case_{i:02d}") for i in range(64)])
    return store._storage.read_bytes(run_paths.results("T1-lung-fold0"))


def test_a_cut_results_file_is_named(store):
    content = committed_bytes(store)
    for size in (0, 3, len(content) // 2, len(content) - 1):
        store._storage.write_bytes(run_paths.results("T1-lung-fold0"), content[:size])
        with pytest.raises(IntegrityError, match=r"results/T1-lung-fold0\.parquet: not a readable Parquet file"):
            store.read()


def test_any_changed_byte_of_a_file_is_our_error_or_changes_nothing(store):
    content = committed_bytes(store)
    expected = store.read()
    random = np.random.default_rng(0)
    num_refused = 0
    # The names of the columns and the schema of Arrow are in the last third.
    for position in range(len(content) // 3, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1 << int(random.integers(8))
        store._storage.write_bytes(run_paths.results("T1-lung-fold0"), bytes(changed))
        try:
            assert store.read().equals(expected), f"byte {position}"
        except IntegrityError:
            num_refused += 1
    assert num_refused > 300


def test_a_text_that_is_none_is_named(store):
    content = committed_bytes(store)
    at = content.find(b"checkpoint_sha256")
    store._storage.write_bytes(run_paths.results("T1-lung-fold0"), content[:at] + b"\xff" + content[at + 1 :])
    with pytest.raises(IntegrityError, match=r"results/T1-lung-fold0\.parquet: .* Delete it to score again"):
        store.read()


@pytest.mark.parametrize("name", ["training_id", "status", "spacing_mm", "tolerance_mm", "checkpoint_sha256"])
def test_rows_that_lack_anything_but_a_score_are_named(store, name):
    table = to_table([row(0.5, 0.5), row(0.25, 0.5)])
    nulls = pa.array([table[name][0].as_py(), None], SCHEMA.field(name).type)
    put_parquet(store, table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), nulls))
    with pytest.raises(IntegrityError, match=rf"fold0\.parquet: rows without {name}; expected all of it"):
        store.read()


def test_a_changed_score_is_not_read(store):
    content = committed_bytes(store)
    table = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    (dsc,) = [table.column(i) for i in range(table.num_columns) if table.column(i).path_in_schema == "dsc"]
    start, end = dsc.dictionary_page_offset or dsc.data_page_offset, 0
    end = start + dsc.total_compressed_size
    num_refused = 0
    for position in range(start, end, 5):
        changed = bytearray(content)
        changed[position] ^= 0x55
        store._storage.write_bytes(run_paths.results("T1-lung-fold0"), bytes(changed))
        try:
            assert store.read().column("dsc").to_pylist() == [i / 64 for i in range(64)], f"byte {position}"
        except IntegrityError:
            num_refused += 1
    assert num_refused > 0.8 * len(range(start, end, 5))


def put_parquet(store, table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    store._storage.write_bytes(run_paths.results("T1-lung-fold0"), buffer.getvalue())


def test_a_parquet_file_of_somebody_else_is_named(store):
    put_parquet(store, pa.table({"dsc": [0.5]}))
    with pytest.raises(IntegrityError, match=r"fold0\.parquet: results of schema version none; expected 2"):
        store.read()


def test_a_later_schema_version_is_named(store):
    table = to_table([row(0.5, 0.5)]).replace_schema_metadata({b"results_schema_version": b"3"})
    put_parquet(store, table)
    with pytest.raises(IntegrityError, match="schema version 3; expected 2"):
        store.read()


def test_a_column_of_another_type_is_named(store):
    position = SCHEMA.get_field_index("dsc")
    table = to_table([row(0.5, 0.5)])
    table = table.set_column(position, "dsc", table.column("dsc").cast(pa.float32()))
    put_parquet(store, table)
    with pytest.raises(IntegrityError, match=r"columns \['dsc float'\] in place of \['dsc double'\]"):
        store.read()


def test_the_deviation_is_that_of_a_sample():
    # mean 0.6; squared distances 0.04 + 0 + 0.04 = 0.08, over 3 - 1 = 0.04, root 0.2
    summary = summarise([row(0.4, 0.1, case="a"), row(0.6, 0.2, case="b"), row(0.8, 0.3, case="c")])
    assert (summary.num_cases, summary.num_both_empty, summary.num_missing) == (3, 0, 0)
    assert (summary.dsc_mean, summary.dsc_std) == (pytest.approx(0.6), pytest.approx(0.2))
    assert (summary.nsd_mean, summary.nsd_std) == (pytest.approx(0.2), pytest.approx(0.1))


def test_folds_of_unequal_size_are_pooled_case_by_case():
    # (0 + 0 + 0.9) / 3, not the mean of the folds' means (0 + 0.9) / 2
    summary = summarise([row(0.0, 0.0, case="a"), row(0.0, 0.0, case="b"), row(0.9, 0.9, case="a", fold=1)])
    assert summary.dsc_mean == pytest.approx(0.3)


def test_empty_and_missing_cases_are_counted_and_left_out():
    summary = summarise([row(0.4, 0.4, case="a"), both_empty("b"), missing("c"), row(0.8, 0.8, case="d")])
    assert (summary.num_cases, summary.num_both_empty, summary.num_missing) == (4, 1, 1)
    assert summary.dsc_mean == pytest.approx(0.6)
    assert summary.dsc_std == pytest.approx(math.sqrt(0.08))


def test_a_structure_that_only_one_mask_holds_counts_as_zero():
    zero = replace(row(0.0, 0.0), score=replace(row(0.0, 0.0).score, status=ScoreStatus.PREDICTION_EMPTY))
    assert summarise([zero, row(0.5, 1.0, case="b")]).dsc_mean == 0.25


def test_seeds_are_averaged_in_each_case_first_and_are_no_further_cases():
    # a: (0.2 + 0.4) / 2 = 0.3; b: 0.7 of the one seed that has a score; over both 0.5, their sample SD 0.2 x root 2.
    rows = [row(0.2, 0.2, case="a"), row(0.4, 0.4, case="a"), row(0.7, 0.7, case="b"), missing("b")]
    rows += [both_empty("c"), missing("c"), missing("d"), missing("d")]
    summary = summarise(rows)
    assert (summary.num_cases, summary.num_both_empty, summary.num_missing) == (4, 1, 3)
    assert (summary.dsc_mean, summary.dsc_std) == (pytest.approx(0.5), pytest.approx(math.sqrt(0.08)))
    assert math.isnan(summarise(rows[:2]).dsc_std)


def test_one_case_has_a_mean_and_no_deviation():
    summary = summarise([row(0.4, 0.5)])
    assert (summary.dsc_mean, summary.nsd_mean) == (0.4, 0.5)
    assert math.isnan(summary.dsc_std)
    assert math.isnan(summary.nsd_std)


def test_nothing_has_no_mean():
    summary = summarise([])
    assert summary.num_cases == 0
    assert math.isnan(summary.dsc_mean)
