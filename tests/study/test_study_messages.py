"""One line says what is wrong with a study's files: in the words of whoever writes them, of what was meant."""

from pathlib import Path

import pytest

from orchestrator.benchmark.loading import load_study
from orchestrator.cluster.registry import load_cluster
from orchestrator.configuration import listing
from orchestrator.errors import ConfigError

STUDY = """title: Things
label_sets: {things: {thing: {label: 1}}}
datasets:
  one: {nnunet: Dataset137_Things, label_sets: [things], channels: [CT], FOLDS}
trainings:
  big: {facets: {organ: liver}, train: [one/all]}
"""
LISTED = "one: [a, b, c]\n"


def refused(folder: Path, *, study: str = STUDY.replace(", FOLDS", ""), folds: str = LISTED) -> str:
    (folder / "study.yaml").write_text(study)
    (folder / "folds.yaml").write_text(folds)
    with pytest.raises(ConfigError) as caught:
        load_study(folder / "study.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ("{number: 1}", "datasets.one.folds: number is 1 (int); expected at least 2"),
        ("{number: '3'}", "datasets.one.folds: number is '3' (str); expected integer"),
        ("{number: 3, sead: 4}", "datasets.one.folds: unknown key 'sead'; did you mean 'seed'?"),
        ("{fille: x.json}", "datasets.one.folds: unknown key 'fille'; did you mean 'file'?"),
        ("{file: [x]}", "datasets.one.folds: file is ['x'] (list); expected string"),
        ("{file: x.json, number: 3}", "folds: key 'file' does not go with the others; expected one or the other"),
        ("nnUNet", "datasets.one: folds is 'nnUNet' (str); expected 'nnunet'; did you mean 'nnunet'?"),
    ],
)
def test_what_may_be_of_several_kinds_is_judged_by_the_kind_that_was_meant(tmp_path, folds, said):
    assert refused(tmp_path, study=STUDY.replace("FOLDS", f"folds: {folds}")).endswith(said)


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ("one: {tr: [1], va: [b]}", "folds.yaml: one.tr: 0 is 1 (int); expected string, which takes quotes: '1'"),
        ("one: {folds: [[a], [2]]}", "folds.yaml: one.folds.1: 0 is 2 (int); expected string, which takes quotes: '2'"),
        ("one: {folds: [[a]]}", "folds.yaml: one: folds is [['a']] (list); expected at least 2 of them"),
        ("one: [yes]", "folds.yaml: one: 0 is True (bool); expected string"),
        ("'on/e': [a]", "folds.yaml: key 'on/e'; expected text of the form ^[A-Za-z0-9][A-Za-z0-9_.-]*$"),
        ("[one]", "folds.yaml: found ['one'] (list); expected dictionary"),
        ("", "folds.yaml: found None (nothing); expected dictionary"),
    ],
)
def test_keys_of_a_list_of_cases_are_those_of_its_file(tmp_path, folds, said):
    assert refused(tmp_path, folds=folds) == said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("organ: liver", "organ: 1.5", "facets: organ is 1.5 (float); expected string, which takes quotes: '1.5'"),
        ("organ: liver", f"organ: {10**20}", f"expected at most {2**63 - 1}"),
        ("  big:", '  "b\\ng":', "trainings: key 'b\\ng'; expected text of the form"),
        ("trainings:", "models: {a: }\ntrainings:", "models: a is None (nothing); expected dictionary"),
        ("trainings:", "models: {}\ntrainings:", "models is {} (dict); expected at least 1 of them"),
        ("trainings:", f"presets: {{smoke: {{num_epochs: {10**31}}}}}\ntrainings:", f"expected at most {2**31 - 1}"),
    ],
)
def test_messages_have_no_names_of_our_own_classes(tmp_path, old, new, said):
    text = refused(tmp_path, study=STUDY.replace(", FOLDS", "").replace(old, new))
    assert said in text


@pytest.mark.parametrize(("number", "said"), [(".inf", "inf"), ("-.inf", "-inf"), (".nan", "nan")])
def test_no_number_of_a_configuration_file_is_infinite(tmp_path, number, said):
    path = tmp_path / "cluster.yaml"
    path.write_text(f"kind: local\ncpus_per_training: {number}\n")
    with pytest.raises(ConfigError) as caught:
        load_cluster(path)
    assert f"cpus_per_training is {said} (float); expected a finite number" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "told"), [("", "nothing"), ("a", "a"), ("abcd", "a, b, c, d"), ("abcdef", "a, b, c, d and 2 more")]
)
def test_a_message_lists_a_few_names_and_counts_the_others(names, told):
    assert listing(list(names)) == told
