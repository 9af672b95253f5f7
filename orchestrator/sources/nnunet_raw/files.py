"""Which cases a folder in nnU-Net's raw layout holds, by the names of its files alone."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.benchmark.definition import CASE_NAME
from orchestrator.configuration import listing
from orchestrator.images.problem import Problem
from orchestrator.sources.nnunet_raw.description import Description

TRAINING, TESTING = ("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")
"""Folders of images and label maps."""
FETCH = "Fetch it (with `git annex get` or `dvc pull`, perhaps), or leave the case out of the folder."
"""What to do about a link that leads nowhere."""
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawCases:
    """Cases that have images and a label map, and what is wrong with the others."""

    training: tuple[str, ...]
    """Sorted."""
    testing: tuple[str, ...]
    """Those of `imagesTs` with a label map, sorted."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def find_cases(
    description: Description, names: Iterable[str], *, folder: str, links_to_nothing: Mapping[str, str] | None = None
) -> RawCases:
    """Sort the files of a data set into cases.

    Parameters
    ----------
    description
        Its `dataset.json`.
    names
        All files below its folder, with `/`; hidden ones are left out.
    folder
        For messages.
    links_to_nothing
        Names of links that lead nowhere, and where that is in words: a case that needs one is a problem.
    """
    links = links_to_nothing or {}
    visible = [name for name in (*names, *links) if not any(part.startswith(".") for part in PurePosixPath(name).parts)]
    return _Finder(description, visible, folder=folder, links_to_nothing=links).cases()


class _Finder:
    """Goes through the files of a data set."""

    def __init__(
        self, description: Description, names: Sequence[str], *, folder: str, links_to_nothing: Mapping[str, str]
    ) -> None:
        self._description = description
        self._folder = folder
        self._links_to_nothing = links_to_nothing
        self._there = set(names)
        self._by_folder: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            parent, _, last = name.rpartition("/")
            self._by_folder[parent].append(last)
        self._problems: list[Problem] = []
        self._notes: list[str] = []

    def cases(self) -> RawCases:
        """Return what there is."""
        listed = self._description.listed
        training = self._listed() if listed is not None else self._of(*TRAINING, needs_labels=True)
        testing = self._of(*TESTING, needs_labels=False)
        for name in sorted(set(training) & set(testing)):
            self._problem(
                f"{TESTING[0]}/{name}", found="a case of this name in imagesTr as well", expected="other names"
            )
        for name in sorted({*training, *testing}):
            if not CASE_NAME.fullmatch(name):
                self._problem(
                    name, found="a case whose name no file of a run can have", expected="letters, digits, _ . and -"
                )
        self._say_decomposed()
        stated = self._description.num_training
        if stated is not None and stated != len(training):
            self._notes.append(f"{self._folder}: numTraining is {stated}, and there are {len(training)} training cases")
        return RawCases(
            training=tuple(sorted(training)),
            testing=tuple(sorted(testing)),
            problems=tuple(self._problems),
            notes=tuple(self._notes),
        )

    def _say_decomposed(self) -> None:
        """Say what cannot be seen: why there is no file of a name that looks like that of one."""
        names = sorted(name for name in self._there if not unicodedata.is_normalized("NFC", name))
        if names and self._problems:
            self._problem(
                names[0],
                found=f"{len(names)} names whose accents are letters of their own, as macOS writes them",
                expected="names of letters with their accents (Unicode's NFC)",
                advice="Rename them, for example by `convmv -f utf8 -t utf8 --nfc -r --notest FOLDER`.",
            )
            # What follows from it comes after it.
            self._problems.insert(0, self._problems.pop())

    def _listed(self) -> list[str]:
        """Return the cases that the description lists; their images may be anywhere below the folder."""
        found = []
        for name, case in (self._description.listed or {}).items():
            missing = [file for file in (*case.images, case.label) if file not in self._there]
            for file in missing:
                self._problem(file, found=f"no such file, which dataset.json lists for case {name}", expected="a file")
            found += [] if missing or not self._are_files((*case.images, case.label)) else [name]
        return found

    def _are_files(self, names: Sequence[str]) -> bool:
        """Whether none of the files of a case is a link that leads nowhere; a problem for each that is."""
        missing = [name for name in names if name in self._links_to_nothing]
        for name in missing:
            found = self._links_to_nothing[name]
            self._problem(name, found=found, expected="a file or a link to one", advice=FETCH)
        return not missing

    def _of(self, images: str, labels: str, *, needs_labels: bool) -> list[str]:
        ending = self._description.file_ending
        channels = self._channels_of(images)
        masks = {file.removesuffix(ending) for file in self._by_folder[labels] if file.endswith(ending)}
        complete = [name for name, found in channels.items() if self._has_all(name, found, folder=images)]
        if needs_labels:
            for name in complete:
                if name not in masks:
                    self._without_labels(name, labels=labels, masks=masks)
            if not channels:
                self._empty(images)
        else:
            self._notes += (
                [f"{self._folder}/{images}: {listing(sorted(set(complete) - masks))} without a label map: not scored"]
                if set(complete) - masks and masks
                else []
            )
        for name in sorted(masks - set(channels)):
            if not (_CHANNEL.fullmatch(name) and name[:-5] in channels):
                self._problem(
                    f"{labels}/{name}{ending}",
                    found="a label map without an image",
                    expected=f"{images}/{name}_0000{ending}",
                )
        files = {
            name: [*(f"{images}/{name}_{number:04}{ending}" for number in channels[name]), f"{labels}/{name}{ending}"]
            for name in complete
            if name in masks
        }
        return [name for name, needed in files.items() if self._are_files(needed)]

    def _channels_of(self, folder: str) -> dict[str, list[int]]:
        """Return the channels of each case by the names of the files."""
        ending = self._description.file_ending
        channels: defaultdict[str, list[int]] = defaultdict(list)
        bare: list[str] = []
        others: list[str] = []
        for file in self._by_folder[folder]:
            parsed = _CHANNEL.fullmatch(file.removesuffix(ending)) if file.endswith(ending) else None
            if parsed:
                channels[parsed["case"]].append(int(parsed["channel"]))
            else:
                (bare if file.endswith(ending) else others).append(file)
        if bare:
            self._problem(
                f"{folder}/{bare[0]}",
                found=f"{len(bare)} images without the number of a channel: {listing(sorted(bare))}",
                expected=f"names such as {bare[0].removesuffix(ending)}_0000{ending}",
            )
        if ending in {".tif", ".tiff"}:
            # The spacing of a stack is read from there.
            others = [file for file in others if not (file.endswith(".json") and file[:-5] in channels)]
        if others:
            kinds = Counter("".join(PurePosixPath(file).suffixes[-2:]) or file for file in others)
            words = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(4))
            self._notes.append(f"{self._folder}/{folder}: files of another ending than {ending} are not read: {words}")
        return {name: sorted(found) for name, found in sorted(channels.items())}

    def _has_all(self, name: str, found: Sequence[int], *, folder: str) -> bool:
        """Whether a case has its channels; how many are in one picture is seen when it is read."""
        ending, wanted = self._description.file_ending, len(self._description.channels)
        one_may_hold_all = ending in {".png", ".bmp", ".tif"} and found == list(range(len(found)))
        if found == list(range(wanted)) or (one_may_hold_all and len(found) < wanted):
            return True
        missing = sorted(set(range(wanted)) - set(found))
        if missing:
            channel = self._description.channels[missing[0]]
            self._problem(
                f"{folder}/{name}_{missing[0]:04}{ending}",
                found=f"no such file, and others of case {name}: {', '.join(f'_{number:04}' for number in found)}",
                expected=f"channel {missing[0]} ({channel}) of it",
            )
        else:
            self._problem(
                f"{folder}/{name}_{found[-1]:04}{ending}",
                found=f"{len(found)} channels of case {name}",
                expected=f"{wanted}, as dataset.json names: {', '.join(self._description.channels)}",
            )
        return False

    def _without_labels(self, name: str, *, labels: str, masks: set[str]) -> None:
        ending = self._description.file_ending
        odd = next((mask for mask in (f"{name}_0000", f"{name}_seg") if mask in masks), None)
        self._problem(
            f"{labels}/{name}{ending}",
            found=f"no such file, though {odd}{ending} is there" if odd else "no such file",
            expected=f"the label map of case {name}",
            advice="Label maps bear the name of the case alone." if odd else "",
        )

    def _empty(self, images: str) -> None:
        others = {name.split("/")[0] for name in self._there if "/" in name}
        ending, folders = self._description.file_ending, ", ".join(sorted(others)) or "none"
        found = f"no image that ends with {ending}; folders are {folders}"
        self._problem(images, found=found, expected=f"CASE_0000{ending}")

    def _problem(self, path: str, *, found: str, expected: str, advice: str = "") -> None:
        advice = advice or "Add or rename files, or leave the case out of the folder."
        problem = Problem(path=f"{self._folder}/{path}", found=found, expected=expected, advice=advice)
        self._problems.append(problem)


def folder_of(wanted: str, names: Mapping[str, bool] | Iterable[str]) -> list[str]:
    """Return which folders a data set may be meant by: by its name, or by `Dataset` and its number alone."""
    there = list(names)
    if wanted in there:
        return [wanted]
    number = re.fullmatch(r"(?:Dataset)?(\d{1,4})", wanted)
    prefix = f"Dataset{int(number[1]):03}" if number else wanted
    return sorted(name for name in there if name == prefix or name.startswith(f"{prefix}_"))
