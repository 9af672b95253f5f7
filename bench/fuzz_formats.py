"""The formats whose files are changed: how a sound file is made, and what reads it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import fuzz_images, fuzz_raw, fuzz_records, fuzz_states
from bench.fuzz_mutations import Mutation, mutate_bytes, mutate_json, mutate_text


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
    "patches": Format(make=fuzz_states.patches, read=fuzz_states.read_patches, is_checked=True),
    "patches-sealed": Format(
        make=fuzz_states.patches, read=fuzz_states.read_patches, mutate=fuzz_states.mutate_sealed_patches
    ),
    "checkpoints": Format(make=fuzz_states.checkpoints, read=fuzz_states.read_checkpoint, is_checked=True),
    "checkpoints-sealed": Format(
        make=fuzz_states.checkpoints, read=fuzz_states.read_checkpoint, mutate=fuzz_states.mutate_sealed_checkpoint
    ),
    "plans": Format(make=fuzz_states.plans, read=fuzz_states.read_plan, mutate=mutate_json),
    "fingerprints": Format(make=fuzz_states.fingerprints, read=fuzz_states.read_fingerprint, mutate=mutate_json),
    "results": Format(make=fuzz_records.results, read=fuzz_records.read_results, is_checked=True),
    "patch-records": Format(make=fuzz_records.patch_records, read=fuzz_records.read_patch_record, mutate=mutate_json),
    "run-records": Format(make=fuzz_records.run_records, read=fuzz_records.read_run_record, mutate=mutate_json),
    "choices": Format(make=fuzz_records.choices, read=fuzz_records.read_choice, mutate=mutate_json),
    "events": Format(make=fuzz_records.events, read=fuzz_records.read_event_file, mutate=fuzz_records.mutate_events),
    "clusters": Format(make=fuzz_records.clusters, read=fuzz_records.read_cluster, mutate=mutate_text),
    "studies": Format(make=fuzz_records.studies, read=fuzz_records.read_study, mutate=fuzz_records.mutate_study),
    "nifti": Format(make=fuzz_images.niftis, read=fuzz_images.read_nifti, mutate=fuzz_images.mutate_compressed),
    "label-maps": Format(
        make=fuzz_images.label_maps, read=fuzz_images.read_label_map_file, mutate=fuzz_images.mutate_compressed
    ),
    "descriptions": Format(make=fuzz_raw.descriptions, read=fuzz_raw.read_description, mutate=mutate_json),
    "pictures": Format(make=fuzz_raw.pictures, read=fuzz_raw.read_picture, mutate=fuzz_raw.mutate_behind_ending),
    "dicom": Format(make=fuzz_images.dicoms, read=fuzz_images.read_dicom),
}
