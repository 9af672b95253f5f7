"""The machine-readable provenance of a bundle: an RO-Crate 1.1 with a process run for each training.

The metadata file is JSON-LD in a fixed order, so that equal runs give equal bytes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from itertools import chain

from orchestrator.bundle import names
from orchestrator.bundle.facts import RunFacts
from orchestrator.storage import run_paths
from orchestrator.workflow.keys import StageKey, StageKind

_SPECIFICATION = "https://w3id.org/ro/crate/1.1"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_FORMATS = {
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "md": "text/markdown",
    "parquet": "application/vnd.apache.parquet",
    "tex": "application/x-tex",
    "txt": "text/plain",
    "yaml": "application/yaml",
}
_NO_DATE = "1980-01-01"
_NO_LICENSE = "#no-licence"
Entity = Mapping[str, object]


def crate_metadata(
    files: Mapping[str, bytes], *, facts: RunFacts, title: str, trainings: Mapping[str, Mapping[str, object]]
) -> bytes:
    """Return `ro-crate-metadata.json` of a bundle with these other files; `trainings` is what each comes from."""
    packed = {name: content for name, content in sorted(files.items()) if name not in {names.CRATE, names.MANIFEST}}
    events = [json.loads(line) for line in packed.get(names.EVENTS, b"").decode().splitlines()]
    ends = {str(event.get("stage")): str(event["time"]) for event in events if event["kind"] == "stage_finished"}
    actions = [
        _action(
            training_id, origin, files=packed, ended=ends.get(StageKey(kind=StageKind.TRAIN, training=training_id).text)
        )
        for training_id, origin in trainings.items()
    ]
    graph = chain(
        _about_crate(packed, actions=actions, facts=facts, title=title, date=_date(events)),
        (_file(name, content) for name, content in packed.items()),
        actions,
        _software(trainings),
    )
    content = {"@context": [f"{_SPECIFICATION}/context", {"sha256": "https://schema.org/sha256"}], "@graph": [*graph]}
    return (json.dumps(content, indent=1) + "\n").encode()


def _about_crate(
    files: Mapping[str, bytes], *, actions: list[Entity], facts: RunFacts, title: str, date: str
) -> Iterator[Entity]:
    yield {
        "@id": names.CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": _SPECIFICATION},
        "about": {"@id": "./"},
    }
    data = "generated phantoms" if facts.phantoms else "images of patients, which are not part of it"
    yield {
        "@id": "./",
        "@type": "Dataset",
        "name": title,
        "description": f"Scores, tables, report and provenance of a study of nnU-Net trainings: {title}. Preset "
        f"{facts.preset.get('name')}, seed {facts.seed}, on {data}.",
        "datePublished": date,
        "license": {"@id": facts.license or _NO_LICENSE},
        "conformsTo": {"@id": _PROFILE},
        "hasPart": _links(files),
        "mentions": _links(str(action["@id"]) for action in actions),
    }
    yield {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    if facts.license:
        yield {"@id": facts.license, "@type": "CreativeWork", "name": facts.license, "description": "Of the bundle"}
    else:
        yield {
            "@id": _NO_LICENSE,
            "@type": "CreativeWork",
            "name": "No licence is stated",
            "description": "Whoever made the bundle has not said under which licence it may be used: ask them.",
        }


def _file(name: str, content: bytes) -> Entity:
    return {
        "@id": name,
        "@type": "File",
        "name": name,
        "encodingFormat": _FORMATS.get(name.rpartition(".")[2], "application/octet-stream"),
        "contentSize": str(len(content)),
        "sha256": sha256(content).hexdigest(),
    }


def _action(training_id: str, origin: Mapping[str, object], *, files: Mapping[str, bytes], ended: str | None) -> Entity:
    """Return the training, prediction and scoring of one model; `ended` is when its training did, if that is known."""
    digests = [f"{part} {origin[f'{part}_sha256']}" for part in ("data", "split", "plan", "checkpoint")]
    return {
        "@id": f"#training-{training_id}",
        "@type": "CreateAction",
        "name": f"Training, prediction and scoring of {training_id}",
        "description": f"Preset {origin['preset']}, seed {origin['seed']}. SHA-256: {', '.join(digests)}.",
        "instrument": _links(_id_of_software(name, version) for name, version in _versions(origin).items()),
        "object": _links(name for name in files if name.startswith("study/")),
        "result": _links([run_paths.results(training_id)]),
        **({"endTime": ended} if ended else {}),
    }


def _links(ids: Iterable[str]) -> object:
    """Return references to entities; to a single one without a list, as the specification asks for."""
    found = [{"@id": id_} for id_ in ids]
    return found[0] if len(found) == 1 else found


def _software(trainings: Mapping[str, Mapping[str, object]]) -> Iterator[Entity]:
    used = dict.fromkeys(pair for origin in trainings.values() for pair in _versions(origin).items())
    for name, version in sorted(used):
        yield {
            "@id": _id_of_software(name, version),
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
            "url": f"https://pypi.org/project/{name}/",
        }


def _versions(origin: Mapping[str, object]) -> dict[str, str]:
    versions = origin.get("versions")
    found = versions if isinstance(versions, dict) else {}
    return {str(name): str(version) for name, version in found.items() if name != "device"}


def _id_of_software(name: str, version: str) -> str:
    plain = "".join(character if character.isalnum() or character in ".-_+" else "-" for character in version)
    return f"#{name}-{plain}"


def _date(events: Iterable[Entity]) -> str:
    """Return the day of the latest event: when the last of what is packed was made."""
    days = (datetime.fromisoformat(str(event["time"])).date().isoformat() for event in events)
    return max(days, default=_NO_DATE)
