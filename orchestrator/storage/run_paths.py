"""Every path of a run, as keys relative to its output location; nothing else builds such a key."""

import hashlib
import re

from orchestrator.benchmark.definition import Case
from orchestrator.storage.interface import Storage

RUN = "run.json"
PHANTOM_DOWNLOADS = "downloads"
EVENTS = "events"
TRAINING_EVENTS = "trainings"
"""Below the events: those that the processes write that train. Sorted after those of the drivers."""
DRIVERS = "drivers"
RESULTS = "results"
TABLES = "tables"
REPORT = "report"
"""Folder of what a run says of its results."""
REPORT_PAGE = f"{REPORT}/index.html"
"""Its page; the files that it names are beside it."""
SUBMISSIONS = "submissions"
"""Scores of label maps that others have made."""
LOGS = "logs"
MILESTONES = "milestones"
"""Folder of what trials of a search were like on their way."""
TRIALS = "trials"
"""Folder of the settings of trials, in the order in which they were chosen."""
PROMOTIONS = "promotions"
"""Folder of which trials of a search went on to the next fidelity, in the order in which that was decided."""
GENERATIONS = "generations"
"""Folder of how the members of a population went on, generation by generation."""
SWEEPS = "sweeps"
"""Folder of the searches that belong to a run."""
SWEEP = "sweep.json"
"""What a search is about, and what it has found."""
ALIKE = "alike.json"
"""Which cases show the same image, as their voxels tell."""
CASES = "cases"
SOURCES = "sources"
"""Folder with the records of cases once more: what a run has read is known even where its cases were removed."""
PATCHES = "patches"
TRAININGS = "trainings"
OF_STAGES = (PHANTOM_DOWNLOADS, CASES, "fingerprints", "plans", PATCHES, TRAININGS, "predictions", RESULTS)
"""Folders with the products of stages."""
OF_RUN = (*OF_STAGES, SOURCES, EVENTS, DRIVERS, TABLES, REPORT, LOGS)
"""Folders that every run writes to; others may lie beside them, such as its data."""
RAY_TRAIN = "ray_train"
"""Ray Train's own notes on trainings; nothing is read from there."""

_NAME = r"[A-Za-z0-9][\w.-]*"
_LONGEST = 240
"""Bytes of a name that a file may have, with an ending."""
_CONFLICT = ".sync-conflict-"
"""In the names of what Syncthing makes of a file that two machines have changed."""
_OWN = {
    EVENTS: re.compile(rf"{EVENTS}/({TRAINING_EVENTS}/{_NAME}-)?\d{{8}}T\d{{6}}\.\d{{6}}-\d{{5}}\.jsonl"),
    RESULTS: re.compile(rf"{RESULTS}/{_NAME}\.parquet"),
    SWEEPS: re.compile(rf"{SWEEPS}/{_NAME}/{RESULTS}/{_NAME}\.parquet"),
    TABLES: re.compile(rf"{TABLES}/{_NAME}\.(md|csv|tex)"),
    CASES: re.compile(rf"{CASES}/{_NAME}/{_NAME}/(?!case\.json){_NAME}\.json"),
    SOURCES: re.compile(rf"{SOURCES}/{_NAME}/{_NAME}/{_NAME}\.json"),
    MILESTONES: re.compile(rf"{MILESTONES}/\d{{6}}/\d{{5}}\.json"),
    TRIALS: re.compile(rf"{TRIALS}/\d{{5}}\.json"),
    PROMOTIONS: re.compile(rf"{PROMOTIONS}/\d{{5}}\.json"),
    GENERATIONS: re.compile(rf"{GENERATIONS}/\d{{5}}\.json"),
    PATCHES: re.compile(rf"{PATCHES}/{_NAME}/[A-Za-z0-9][\w.-]*\.arrow"),
}


def is_name(text: str) -> bool:
    """Whether a text can be the id of a training."""
    return re.fullmatch(_NAME, text) is not None and len(text.encode()) <= _LONGEST


def own_keys(storage: Storage, folder: str, *, below: str = "") -> list[str]:
    """Return the files of a folder of a run that are the run's: events, results, tables, patch files, records of cases.

    Of sweeps they are the results. Desktops, synchronisation tools and backups leave others beside them:
    `._liver-fold0.parquet`, `.DS_Store`, `liver-fold0 (conflicted copy).parquet`,
    `liver-fold0.sync-conflict-20261128-101112-ABC.parquet`. With `below` only those of a folder in it.
    """
    keys = storage.list_keys(below or folder)
    return [key for key in keys if _OWN[folder].fullmatch(key) and _CONFLICT not in key]


def driver(number: int) -> str:
    """JSON record of one driver of the run; the highest number is the latest."""
    return f"{DRIVERS}/{number:06d}.json"


def phantom_listing(download: str) -> str:
    """JSON list of the files of a generated download, written when they are there: it says that it is whole."""
    return f"{PHANTOM_DOWNLOADS}/{download}.json"


def case_image(case: Case, *, channel: int = 0) -> str:
    """One channel of the image of an ingested case, NIfTI; of a CT of a download in HU, or in its data set's window."""
    return f"{CASES}/{case.id}/image{f'-{channel}' if channel else ''}.nii.gz"


def case_images(case: Case, *, num_channels: int) -> tuple[str, ...]:
    """Every channel of the image of an ingested case."""
    return tuple(case_image(case, channel=channel) for channel in range(num_channels))


def case_labels(case: Case, *, label_set: str) -> str:
    """Label map of an ingested case in the geometry of its image, NIfTI uint8."""
    return labels_of_cases(label_set=label_set).format(case.id)


def labels_of_cases(*, label_set: str) -> str:
    """Pattern of the label maps of all cases, with the id of one at {}."""
    return f"{CASES}/{{}}/{label_set}.nii.gz"


def case_overview(case: Case) -> str:
    """JSON with the digests, notes and warnings of a case's image and label maps, for people; nothing reads it."""
    return f"{CASES}/{case.id}/case.json"


def case_thumbnail(case: Case) -> str:
    """Image of a case, small: what it is compared with others by. Nothing else needs it."""
    return f"{CASES}/{case.id}/image.small"


def image_record(case: Case) -> str:
    """JSON record of the image of a case, all channels: digests, geometry, origin. Written last: the image is done."""
    return f"{CASES}/{case.id}/image.json"


def labels_record(case: Case, *, label_set: str) -> str:
    """JSON record of a label map of a case: digest, origin, warnings. Written last, as that of the image."""
    return f"{CASES}/{case.id}/{label_set}.json"


def kept_record(key: str) -> str:
    """Return where the record of an image or label map is kept once more, by its key."""
    return f"{SOURCES}/{key.removeprefix(f'{CASES}/')}"


def record_of_kept(key: str) -> str:
    """Return the key of the record that is kept once more at a place."""
    return f"{CASES}/{key.removeprefix(f'{SOURCES}/')}"


def fingerprint(case: Case, *, label_set: str) -> str:
    """nnU-Net's fingerprint of one case (JSON)."""
    return f"fingerprints/{case.id}/{label_set}.json"


def plan(training_id: str) -> str:
    """nnU-Net plans and dataset.json of a training (JSON)."""
    return f"plans/{training_id}.json"


def patches(training_id: str, case: Case) -> str:
    """Arrow patch file of one case, preprocessed with the plan of one training."""
    return f"{PATCHES}/{training_id}/{case.dataset}--{case.name}.arrow"


def training(training_id: str) -> str:
    """Folder of the checkpoints and records of a training."""
    return f"trainings/{training_id}"


def checkpoint_slots(training_id: str) -> tuple[str, str]:
    """Two files in which a training under way keeps its last two checkpoints by turns; each holds its number."""
    return f"trainings/{training_id}/checkpoint_even.ckpt", f"trainings/{training_id}/checkpoint_odd.ckpt"


def attempts(training_id: str) -> str:
    """Folder of the marks of the attempts at a training."""
    return f"trainings/{training_id}/attempts"


def attempt(training_id: str, number: int) -> str:
    """JSON record of one attempt at a training; the highest number is the latest, and only that one may write."""
    return f"{attempts(training_id)}/{number:06d}.json"


def record_of_patches(key: str) -> str:
    """JSON record of a patch file: size, digest, version of the format. Written before the file appears."""
    return f"{key.removesuffix('.arrow')}.json"


def final_checkpoint(training_id: str) -> str:
    """Checkpoint after the last epoch: the one that is evaluated."""
    return f"trainings/{training_id}/checkpoint_final.ckpt"


def training_progress(training_id: str) -> str:
    """JSON record of the latest epoch of a training under way."""
    return f"trainings/{training_id}/progress.json"


def stop_request(training_id: str) -> str:
    """Marker that asks a training under way to write a checkpoint and stop; removed when it starts again."""
    return f"trainings/{training_id}/stop_request.txt"


def ensemble_record(training_id: str) -> str:
    """JSON record of an ensemble: its members, how they were chosen, digests. It stands for that of a training."""
    return f"trainings/{training_id}/ensemble.json"


def validations(training_id: str) -> str:
    """Folder with the scores of validation cases by all that an ensemble may become."""
    return f"trainings/{training_id}/validation"


def validation(training_id: str, case: Case) -> str:
    """JSON with those of one case."""
    return f"{validations(training_id)}/{case.id}.json"


def validation_record(training_id: str) -> str:
    """JSON with the mean scores of all that an ensemble may become. Written last."""
    return f"trainings/{training_id}/validation.json"


def validation_curve(training_id: str) -> str:
    """CSV file with the scores of whole validation cases while a training ran, if it looked at them."""
    return f"trainings/{training_id}/validation_curve.csv"


def training_record(training_id: str) -> str:
    """JSON record of a finished training: epochs, losses, time, versions, digest of the checkpoint. Written last."""
    return f"trainings/{training_id}/training.json"


def predictions(training_id: str) -> str:
    """Folder of all that a training has predicted."""
    return f"predictions/{training_id}"


def prediction(training_id: str, case: Case) -> str:
    """Predicted label map of one case in the geometry of its image, NIfTI uint8; its header names the checkpoint."""
    return f"{predictions(training_id)}/{case.id}.nii.gz"


def prediction_record(training_id: str) -> str:
    """JSON record of all predictions of a training: checkpoint, failures. Written last: it says that they are done."""
    return f"{predictions(training_id)}/predictions.json"


def results(training_id: str) -> str:
    """Parquet file with all scores of a training; its existence says that the training is done."""
    return f"{RESULTS}/{training_id}.parquet"


def sweep(name: str) -> str:
    """Folder of a search within that of a run; it has the layout of a run."""
    return f"{SWEEPS}/{name}"


def trials(first: int) -> str:
    """JSON record of trials that were chosen together, by the number of the first; it is written once."""
    return f"{TRIALS}/{first:05d}.json"


def promotions(number: int) -> str:
    """JSON record of trials that go on to the next fidelity together, by its own number; it is written once."""
    return f"{PROMOTIONS}/{number:05d}.json"


def generation(number: int) -> str:
    """JSON record of how the members of a population went on with a generation, from 1; it is written once."""
    return f"{GENERATIONS}/{number:05d}.json"


def generation_of(training_id: str, *, number: int) -> str:
    """Return what stands for the id of a training in paths of what it leaves after a generation that is not its last.

    Its checkpoints and its record are then below the folder of the training.
    """
    return f"{training_id}/generation{number:03d}"


def milestone(epoch: int) -> str:
    """Folder of the trials that have come so far."""
    return f"{MILESTONES}/{epoch:06d}"


def arrival(epoch: int, *, number: int) -> str:
    """JSON record of a trial at a milestone, in the order in which trials came; it is written once."""
    return f"{milestone(epoch)}/{number:05d}.json"


def submissions_record(label_set: str) -> str:
    """JSON with the submissions whose label maps are of a label set: names and folders."""
    return f"{SUBMISSIONS}/{label_set}/methods.json"


def submitted_scores(label_set: str, *, references: str) -> str:
    """Folder with a Parquet file a case: scores of submissions of a label set against references of another one."""
    return f"{SUBMISSIONS}/{label_set}/{references}"


def stage_failure(stage_id: str) -> str:
    """Text of the error with which a stage failed."""
    name = stage_id.replace("/", "--").replace(" ", "--")
    if len(whole := name.encode()) > _LONGEST:  # of a training and a case, each with a long name
        digits = hashlib.sha256(whole).hexdigest()[:8]
        name = f"{whole[: _LONGEST - len(digits) - 1].decode(errors='ignore')}-{digits}"
    return f"{LOGS}/failed/{name}.txt"


def log(training_id: str) -> str:
    """Text log of a training."""
    return f"{LOGS}/{training_id}.log"
