"""Every path in a bundle."""

import re

from orchestrator.storage import run_paths

RUN = "run.json"
"""What the run is: of bundle.facts."""
DESCRIPTIONS = "study/described_datasets.json"
"""What data sets in nnU-Net's layout have said of themselves when the study was read."""
STUDY = "study/study.yaml"
EVENTS = f"{run_paths.EVENTS}/20000101T000000.000000-00000.jsonl"
"""One segment of all events that are packed; its name is that of none."""
SPLITS = "splits.json"
TRAININGS = "trainings.json"
README = "README.md"
CRATE = "ro-crate-metadata.json"
MANIFEST = "manifest-sha256.txt"
_INPUT = re.compile(rf"{RUN}|study/[^/]+|{run_paths.RESULTS}/[A-Za-z0-9][\w-]*\.parquet|{re.escape(EVENTS)}", re.ASCII)


def is_input(name: str) -> bool:
    """Whether a file is one that others are made of; all others are made again and compared."""
    return _INPUT.fullmatch(name) is not None


def of_study(file: str) -> str:
    """Return the path of a file that lies beside the study file."""
    return f"study/{file}"
