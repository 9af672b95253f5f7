"""The formats whose files are changed: how a sound file is made, and what reads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fuzz import images, raw, records, states
from bench.fuzz.mutations import Mutation, mutate_bytes, mutate_json, mutate_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One format of files."""

    make: Callable[[Path], Sequence[bytes]]
    """Returns sound files; may work in the folder."""
    read: Callable[[bytes, Path], Any]
    """Reads a file, which it may write to the folder, and returns what can be compared."""
    mutate: Mutation = mutate_bytes
    is_checked: bool = False
    """Whether checksums promise that what is read is what was written, or nothing."""


FORMATS: dict[str, Format] = {
    "patches": Format(make=states.patches, read=states.read_patches, is_checked=True),
    "patches-sealed": Format(make=states.patches, read=states.read_patches, mutate=states.mutate_sealed_patches),
    "checkpoints": Format(make=states.checkpoints, read=states.read_checkpoint, is_checked=True),
    "checkpoints-sealed": Format(
        make=states.checkpoints, read=states.read_checkpoint, mutate=states.mutate_sealed_checkpoint
    ),
    "plans": Format(make=states.plans, read=states.read_plan, mutate=mutate_json),
    "fingerprints": Format(make=states.fingerprints, read=states.read_fingerprint, mutate=mutate_json),
    "results": Format(make=records.results, read=records.read_results, is_checked=True),
    "patch-records": Format(make=records.patch_records, read=records.read_patch_record, mutate=mutate_json),
    "run-records": Format(make=records.run_records, read=records.read_run_record, mutate=mutate_json),
    "choices": Format(make=records.choices, read=records.read_choice, mutate=mutate_json),
    "events": Format(make=records.events, read=records.read_event_file, mutate=records.mutate_events),
    "clusters": Format(make=records.clusters, read=records.read_cluster, mutate=mutate_text),
    "studies": Format(make=records.studies, read=records.read_study, mutate=records.mutate_study),
    "nifti": Format(make=images.niftis, read=images.read_nifti, mutate=images.mutate_compressed),
    "label-maps": Format(make=images.label_maps, read=images.read_label_map_file, mutate=images.mutate_compressed),
    "descriptions": Format(make=raw.descriptions, read=raw.read_description, mutate=mutate_json),
    "pictures": Format(make=raw.pictures, read=raw.read_picture, mutate=raw.mutate_behind_ending),
    "dicom": Format(make=images.dicoms, read=images.read_dicom),
}
