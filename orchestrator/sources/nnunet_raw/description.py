"""What a `dataset.json` of nnU-Net's raw layout says, read strictly: whatever is in it, the answer is one sentence."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.images.problem import SourceError, printable
from orchestrator.storage.json_values import JsonMapping, JsonObject, distinct_keys

MAX_BYTES = 16 * 1024**2
_MAX_CHANNELS = 100
BACKGROUND, IGNORE = "background", "ignore"
ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".png", ".bmp", ".tif", ".tiff")
"""Of files that can be read."""
_STACK_READER, _PICTURE_READER = "Tiff3DIO", "NaturalImage2DIO"
_READER_OF_ENDING = {
    **dict.fromkeys((".png", ".bmp", ".tif"), _PICTURE_READER),
    ".tiff": _STACK_READER,
    ".nii": "NibabelIO",
}
_PLAIN_READERS = ("SimpleITKIO", "NibabelIO", _PICTURE_READER, _STACK_READER)
_TURNING_READERS = ("SimpleITKIOWithReorient", "NibabelIOWithReorient")
"""They bring the axes to right, anterior, superior."""
_CONVERT = "Convert it with nnUNetv2_convert_old_nnUNet_dataset."


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedCase:
    """A case whose files the description names, below the folder of the data set."""

    images: tuple[str, ...]
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A data set as its `dataset.json` has it."""

    channels: tuple[str, ...]
    labels: Mapping[str, tuple[int, ...]]
    """Structure to its value or to those of its region; without background and the ignored label."""
    regions_class_order: tuple[int, ...]
    """Empty if no structure is a region."""
    ignored_label: int | None
    file_ending: str
    reader: str
    """nnU-Net's class that reads it, where it is named; else empty."""
    num_training: int | None
    listed: Mapping[str, ListedCase] | None
    """Cases by name, where it lists them."""

    @property
    def must_be_stack(self) -> bool | None:
        """Whether its reader takes a TIFF for a stack, or for a picture; None if that shows in the file."""
        return {_STACK_READER: True, _PICTURE_READER: False}.get(self.reader)

    @property
    def nnunet_reader(self) -> str:
        """Name of the class with which nnU-Net reads these files, also where none is named."""
        return self.reader or _READER_OF_ENDING.get(self.file_ending, "SimpleITKIO")

    @property
    def is_turned(self) -> bool:
        """Whether its reader brings the axes into another order."""
        return self.reader in _TURNING_READERS


def parse_description(content: bytes, *, name: str) -> Description:
    """Understand the content of a `dataset.json`; raises SourceError that names the key, and what is wrong with it."""
    return _Parser(name, _loaded(content, name=name)).description()


def _loaded(content: bytes, *, name: str) -> JsonObject:
    expected = "nnU-Net's dataset.json"
    if len(content) > MAX_BYTES:
        raise _fault(name, found=f"more than {MAX_BYTES} bytes", expected=expected)
    try:
        loaded = json.loads(content.decode("utf-8-sig"), object_pairs_hook=distinct_keys)
    except (ValueError, RecursionError) as error:
        found = f"a file that is not JSON ({str(error)[:200]})"
        raise _fault(name, found=found, expected=expected) from error
    if not isinstance(loaded, dict):
        raise _fault(name, found=f"JSON of {type(loaded).__name__}", expected="an object with channel_names and labels")
    return loaded


def _fault(name: str, *, found: str, expected: str, advice: str = "") -> SourceError:
    advice = advice or "Mend it as nnU-Net's documentation (dataset_format.md) says."
    return SourceError.of(name, found=printable(found), expected=expected, advice=advice)


class _Parser:
    """Understands the keys one by one."""

    def __init__(self, name: str, content: JsonMapping) -> None:
        self._name = name
        self._content = content

    def description(self) -> Description:
        values = self._values()
        ignored = values.pop(IGNORE, None)
        has_regions = any(len(labels) > 1 for labels in values.values())
        if not values:
            raise self._wrong("labels", expected="at least one structure beside the background")
        order = self._class_order(len(values)) if has_regions else ()
        return Description(
            channels=self._channels(),
            labels=values,
            regions_class_order=order,
            ignored_label=ignored[0] if ignored else None,
            file_ending=self._ending(),
            reader=self._reader(),
            num_training=self._num_training(),
            listed=self._listed(),
        )

    def _wrong(self, key: str, *, expected: str, advice: str = "", value: object = None) -> SourceError:
        value = self._content.get(key) if value is None else value
        found = f"{key} = {json.dumps(value, default=str)[:120]}" if key in self._content else f"no key {key!r}"
        return _fault(self._name, found=found, expected=expected, advice=advice)

    def _channels(self) -> tuple[str, ...]:
        key = "channel_names" if "channel_names" in self._content else "modality"
        found = self._content.get(key)
        if key == "modality" and found is None:
            raise _fault(self._name, found="no key 'channel_names'", expected='{"channel_names": {"0": "CT"}}')
        expected = 'names of the channels by number, {"0": "T1", "1": "FLAIR"}'
        if not isinstance(found, dict) or not 1 <= len(found) <= _MAX_CHANNELS:
            raise self._wrong(key, expected=expected)
        names = [found.get(str(number)) for number in range(len(found))]
        if not all(_is_name(name) for name in names):
            raise self._wrong(key, expected=expected)
        return tuple(names)  # type: ignore[arg-type]

    def _values(self) -> dict[str, tuple[int, ...]]:
        found = self._content.get("labels")
        expected = 'structures with their values, {"background": 0, "liver": 1}'
        if not isinstance(found, dict) or len(found) > 300:
            raise self._wrong("labels", expected=expected)
        if found and all(name.isdecimal() and isinstance(value, str) for name, value in found.items()):
            raise self._wrong("labels", expected=f"{expected}: these are of nnU-Net 1", advice=_CONVERT)
        values = {}
        for name, value in found.items():
            labels = tuple(value) if isinstance(value, list) else (value,)
            if not _is_name(name) or not labels or not all(_is_label(label) for label in labels):
                raise self._wrong("labels", expected=f"{expected}, whole numbers up to 255", value={name: value})
            values[name] = labels
        if values.pop(BACKGROUND, None) != (0,):
            raise self._wrong("labels", expected='"background": 0 among them')
        if any(0 in labels for labels in values.values()):
            raise self._wrong("labels", expected="0 for the background alone")
        if len(values.get(IGNORE, (1,))) != 1:
            raise self._wrong("labels", expected=f"one number for {IGNORE!r}")
        plain = [labels[0] for labels in values.values() if len(labels) == 1]
        if len(plain) == len(values) and len(set(plain)) < len(plain):
            raise self._wrong("labels", expected="another value for each structure")
        return values

    def _class_order(self, num_structures: int) -> tuple[int, ...]:
        found = self._content.get("regions_class_order")
        if not isinstance(found, list) or len(found) != num_structures or not all(map(_is_label, found)):
            raise self._wrong(
                "regions_class_order",
                expected=f"a list of {num_structures} labels, one for each region, in their order",
            )
        return tuple(found)

    def _ending(self) -> str:
        found = self._content.get("file_ending")
        if found not in ENDINGS:
            raise self._wrong(
                "file_ending",
                expected=f"one of {', '.join(ENDINGS)}",
                advice=_CONVERT if found is None and "training" in self._content else "Convert the files, or mend it.",
            )
        return str(found)

    def _reader(self) -> str:
        found = self._content.get("overwrite_image_reader_writer")
        if found in (None, "None", ""):
            return ""
        if found not in (*_PLAIN_READERS, *_TURNING_READERS):
            raise self._wrong(
                "overwrite_image_reader_writer",
                expected=f"one of {', '.join((*_PLAIN_READERS, *_TURNING_READERS))}",
                advice="Readers of others are not run: convert the files.",
            )
        return str(found)

    def _num_training(self) -> int | None:
        found = self._content.get("numTraining")
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def _listed(self) -> dict[str, ListedCase] | None:
        found = self._content.get("dataset")
        if found is None:
            return None
        expected = 'cases with their files, {"case_1": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}}'
        if not isinstance(found, dict):
            raise self._wrong("dataset", expected=expected)
        listed = {}
        for name, entry in found.items():
            images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
            if not isinstance(images, list) or not images or not isinstance(label, str):
                raise self._wrong("dataset", expected=expected, value={name: entry})
            listed[name] = ListedCase(images=tuple(map(self._inside, images)), label=self._inside(label))
        return listed

    def _inside(self, path: object) -> str:
        """Return a path below the folder of the data set."""
        text = path if isinstance(path, str) else ""
        parts = PurePosixPath(text).parts
        is_plain = parts and not set(text) & set("\\$\0") and text.isprintable()
        if not is_plain or ".." in parts or parts[0].startswith(("/", "~")) or ":" in parts[0]:
            raise self._wrong(
                "dataset",
                value=path,
                expected="paths inside of the folder of the data set",
                advice="Copy or link the files into it.",
            )
        return PurePosixPath(*parts).as_posix()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value.strip()) <= 100 and value.isprintable()


def _is_label(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
