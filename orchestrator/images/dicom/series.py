"""The one CT series of a patient among all the DICOM files of his folders: what is asked before anything is read."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from orchestrator.images.dicom.elements import (
    MODALITIES,
    Elements,
    Tag,
    looks_like_dicom,
    looks_like_rest,
    not_dicom,
    read_elements,
    unopened,
)
from orchestrator.images.dicom.slice import Slice, is_derived, other_than_slice, slice_of
from orchestrator.images.dicom.stack import Stack, stack_of
from orchestrator.images.geometry import check_same_geometry
from orchestrator.images.problem import SourceError
from orchestrator.images.source_file import SourceFile, leads_nowhere
from orchestrator.images.volume import read_nifti_geometry

_FEW = 2
"""Scout images of a series, at most: from the front and from the side."""
_PARALLEL = 0.7
"""Cosine between normals of slices of one stack; scouts and reformatted planes stand at right angles to it."""
_ONE = "Keep the CT to which the masks belong in the folder of the patient, and move the others away."
_ALONE = "Put the files of the one that is meant into a folder of their own."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A series, or of a series the slices of one direction."""

    uid: str
    modality: str
    description: str
    files: tuple[Path, ...]
    patients: frozenset[str]
    is_derived: bool
    stack: Stack | None
    error: SourceError | None
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        named = f"'{self.description}'" if self.description else "one without a name"
        return f"{named}, {len(self.files)} slices ({self.uid}: {self.files[0].name} ...)"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    """What the files of a patient are."""

    series: dict[str, list[Elements]] = field(default_factory=lambda: defaultdict(list))
    others: Counter[str] = field(default_factory=Counter)
    unreadable: list[SourceError] = field(default_factory=list)


def dicom_files(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Return the files of these folders that are looked at: by name and kind only, hidden ones apart.

    Links that lead nowhere are among them: each could be a slice.

    Raises SourceError if a folder cannot be listed.
    """
    found: list[Path] = []
    for folder in folders:
        try:
            within = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
            found += [file for file in within if file.is_file() or leads_nowhere(file)]
        except OSError as error:
            raise unopened(folder, error) from error
    return tuple(found)


def choose_stack(
    folders: Sequence[Path], *, name: str, masks: Sequence[SourceFile] | None, modalities: Collection[str] = ("CT",)
) -> Stack:
    """Find the series of a patient and check it, by the headers alone.

    What says to be no slice of the modalities is passed over: other modalities, structure sets, doses, reports, scouts,
    screen shots. Of several series that one is taken on whose grid the masks lie, where masks belong to it at all, else
    the only one that is whole; of several such ones the only one that was not derived from others.

    Parameters
    ----------
    folders
        All folders with DICOM files of the patient.
    name
        The patient's folder, for messages.
    masks
        All masks of the patient, read only if there is a choice; None where a series is chosen for itself.
    modalities
        `CT`, `MR` or both.

    Raises
    ------
    SourceError
        If there is no series, none that is whole, or several of which none is to be preferred; it names a file if one
        is to blame.
    """
    files = _sorted_out(dicom_files(folders), modalities=modalities)
    candidates = [each for uid in sorted(files.series) for each in _candidates(files, uid=uid, name=name)]
    if not candidates:
        raise _no_series(files, name=name, folders=folders, modalities=modalities)
    stacks = [each for each in candidates if len(each.files) > 1]
    chosen = _chosen(stacks or candidates[:1], name=name, masks=masks)
    if chosen.error is not None or chosen.stack is None:
        raise chosen.error or _no_series(files, name=name, folders=folders, modalities=modalities)
    left = [f"{error.problem.line}; it was left out" for error in files.unreadable]
    return replace(chosen.stack, notes=(*chosen.notes, *chosen.stack.notes, *left))


def _sorted_out(paths: Sequence[Path], *, modalities: Collection[str]) -> _Files:
    files = _Files()
    rests: list[Path] = []
    for path in paths:
        try:
            if path.suffix.lower() != ".dcm" and not looks_like_dicom(path):
                rests += [path] if looks_like_rest(path) else []
                continue
            elements = read_elements(path, modalities=modalities)
            other = other_than_slice(elements, modalities=modalities)
            if other is not None:
                files.others[other] += 1
            elif uid := elements.text(Tag.SeriesInstanceUID):
                files.series[uid].append(elements)
            else:
                missing = "with no" if elements.pixels else "that ends before its"
                raise elements.problem(f"a slice {missing} SeriesInstanceUID", "the UID of its series")
        except SourceError as error:
            files.unreadable.append(error)
        except OSError as error:
            files.unreadable.append(unopened(path, error))
    named = {_ending(each.file) for found in files.series.values() for each in found}
    files.unreadable.extend(not_dicom(path) for path in rests if _ending(path) in named)
    return files


def _ending(path: Path) -> str:
    """Return what tells names of slices from others; those with numbers, and UIDs, have none."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _candidates(files: _Files, *, uid: str, name: str) -> list[_Candidate]:
    elements = files.series[uid]
    folders = {each.file.parent for each in elements}
    errors = [error for error in files.unreadable if Path(error.problem.path).parent in folders]
    slices: list[Slice] = []
    for each in elements:
        try:
            slices.append(slice_of(each))
        except SourceError as error:
            errors.append(error)
    groups = _parallel(slices) or [[]]
    largest = max(map(len, groups))
    scouts = [each.file.name for group in groups if len(group) <= _FEW < largest for each in group]
    notes = (f"{name}: left out {', '.join(scouts)}, planes at right angles to the series",) if scouts else ()
    return [
        _candidate(group, elements, errors=errors, notes=notes, name=name)
        for group in groups
        if not len(group) <= _FEW < largest
    ]


def _candidate(
    group: Sequence[Slice],
    elements: Sequence[Elements],
    *,
    errors: Sequence[SourceError],
    notes: tuple[str, ...],
    name: str,
) -> _Candidate:
    stack, error = None, _first_of(errors)
    if error is None:
        try:
            stack = stack_of(group, name=name)
        except SourceError as raised:
            error = raised
    members = {each.file for each in group}
    of_group = [each for each in elements if each.file in members or not members]
    return _Candidate(
        uid=of_group[0].text(Tag.SeriesInstanceUID),
        modality=MODALITIES[of_group[0].text(Tag.SOPClassUID)],
        description=of_group[0].text(Tag.SeriesDescription),
        files=tuple(each.file for each in of_group),
        patients=frozenset(filter(None, (each.text(Tag.PatientID) for each in of_group))),
        is_derived=any(map(is_derived, of_group)),
        stack=stack,
        error=error,
        notes=notes,
    )


def _first_of(errors: Sequence[SourceError]) -> SourceError | None:
    if len(errors) < 2:
        return errors[0] if errors else None
    problem = errors[0].problem
    return SourceError.of(
        problem.path,
        found=f"{problem.found}, and {len(errors) - 1} more such files beside it",
        expected=problem.expected,
        advice=problem.advice,
    )


def _parallel(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by the direction of their normals."""
    groups: list[list[Slice]] = []
    for each in slices:
        for group in groups:
            if abs(float(np.cross(each.row, each.column) @ np.cross(group[0].row, group[0].column))) > _PARALLEL:
                group.append(each)
                break
        else:
            groups.append([each])
    return groups


def _chosen(candidates: Sequence[_Candidate], *, name: str, masks: Sequence[SourceFile] | None) -> _Candidate:
    if len(candidates) == 1:
        return candidates[0]
    patients = sorted(frozenset().union(*(each.patients for each in candidates)))
    if len(patients) > 1:
        found = f"{_kind(candidates)} series of {len(patients)} patients ({', '.join(patients)})"
        raise _undecided(candidates, found, name=name, has_masks=masks is not None)
    reasons = _misfits(candidates, masks=masks)
    fitting = [each for each, reason in zip(candidates, reasons, strict=True) if not reason]
    if len(fitting) > 1:
        fitting = [each for each in fitting if not each.is_derived] or fitting
    if len(fitting) != 1:
        if masks is None:
            which = f"{len(fitting) or 'none'} of which are whole and not derived from others"
        else:
            which = f"{len(fitting)} of which lie" if fitting else "none of which lies"
            which += " on the grid of the masks"
        described = (
            f"{each.label}{f': {reason}' if reason else ''}" for each, reason in zip(candidates, reasons, strict=True)
        )
        found = f"{len(candidates)} {_kind(candidates)} series, {which}: {'; '.join(described)}"
        raise _undecided(candidates, found, name=name, has_masks=masks is not None)
    (chosen,) = fitting
    left = ", ".join(each.label for each in candidates if each is not chosen)
    why = "the only one that is whole and not derived from others" if masks is None else "on whose grid the masks lie"
    note = f"{name}: {len(candidates)} {_kind(candidates)} series; took {chosen.label}, {why}, and left {left}"
    return replace(chosen, notes=(note, *chosen.notes))


def _misfits(candidates: Sequence[_Candidate], *, masks: Sequence[SourceFile] | None) -> list[str]:
    """Why the masks do not lie on the grid of each candidate; empty for those where they do, or that need no masks."""
    if masks is None:
        return ["" if each.error is None else each.error.problem.found for each in candidates]
    grids = {}
    for mask in masks:
        try:
            grids[str(mask)] = read_nifti_geometry(mask).to_lps()
        except SourceError:  # a problem of the mask, told where it is read
            continue
    reasons = []
    for each in candidates:
        reason = each.error.problem.found if each.error is not None else ""
        if not grids:
            reason = reason or "no mask can be read"
        for mask_name, grid in grids.items():
            if each.stack is not None:
                try:
                    check_same_geometry(each.stack.geometry.to_lps(), grid, image_name=each.label, mask_name=mask_name)
                except SourceError as error:
                    reason = (
                        f"{mask_name} is {error.problem.found}, not of {error.problem.expected.split(' as of ')[0]}"
                    )
        reasons.append(reason)
    return reasons


def _undecided(candidates: Sequence[_Candidate], found: str, *, name: str, has_masks: bool) -> SourceError:
    broken = [each.error for each in candidates if each.error is not None]
    where = broken[0].problem.path if len(broken) == 1 and Path(broken[0].problem.path).is_file() else name
    wanted = "on the grid of the masks" if has_masks else "that is whole and not derived from others"
    advice = _ONE if has_masks else _ALONE
    return SourceError.of(where, found=found, expected=f"one {_kind(candidates)} series {wanted}", advice=advice)


def _kind(candidates: Sequence[_Candidate]) -> str:
    return " or ".join(sorted({each.modality for each in candidates}))


def _no_series(files: _Files, *, name: str, folders: Sequence[Path], modalities: Collection[str]) -> SourceError:
    if files.unreadable:
        return _first_of(files.unreadable) or files.unreadable[0]
    wanted = " or ".join(sorted(modalities))
    kinds = ", ".join(f"{number} of {kind}" for kind, number in sorted(files.others.items()))
    return SourceError.of(
        name,
        found=f"no {wanted} series among {len(folders)} folders with DICOM files ({kinds or 'none of them DICOM'})",
        expected=f"one series of modality {wanted}, a file a slice",
        advice=f"Download the {wanted} of this patient again; convert an enhanced one of many frames to single slices.",
    )
