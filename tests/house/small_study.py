"""A study of two networks on eight small cases, of which a training takes seconds."""

from pathlib import Path

STUDY = """title: Organs, generated
label_sets:
  organs:
    liver: {label: 1, tolerance_mm: 2.0}
    spleen: {label: 2, tolerance_mm: 2.0}
datasets:
  ct:
    nnunet: Dataset902_OrganPhantoms
    channels: [CT]
    label_sets: [organs]
    folds: {number: 2}
    held_out: {external: [c07, c08]}
    slices: 24
models:
  3d: {}
  2d: {configuration: 2d, suffix: -2d}
trainings:
  organs:
    facets: {source: own}
    train: [ct/other-folds]
    val: [ct/fold]
    test: {external: ct/external}
presets:
  tiny: {like: smoke, num_epochs: 3, num_iterations_per_epoch: 12, num_val_iterations_per_epoch: 1, cases: {val: 3}}
"""
FOLDS = "ct: [c01, c02, c03, c04, c05, c06, c07, c08]\n"


def write_study(folder: Path, text: str = STUDY) -> Path:
    """Write it, and return its file."""
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    (folder / "folds.yaml").write_text(FOLDS, encoding="utf-8")
    return folder / "study.yaml"
