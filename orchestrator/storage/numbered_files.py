"""Files with numbers in one folder: each number can be had once, and who holds the highest is the latest."""

from collections.abc import Callable
from pathlib import Path

from orchestrator.storage.interface import Storage


def last_number(storage: Storage, folder: str) -> int:
    """Return the highest number of a file of this folder; 0 if there is none."""
    return max(_numbers(storage, folder).values(), default=0)


def take_next(storage: Storage, folder: str, *, key: Callable[[int], str], data: bytes) -> int:
    """Create the file of the next number, delete those before it, and return the number.

    Parameters
    ----------
    storage
        Where the files are.
    folder
        Their folder.
    key
        Gives the path of a number.
    data
        What is written.
    """
    number = last_number(storage, folder) + 1
    while not storage.create_exclusive(key(number), data):
        number += 1
    delete_before(storage, folder, number=number)
    return number


def delete_before(storage: Storage, folder: str, *, number: int) -> None:
    """Delete the files of all lower numbers."""
    for key, found in _numbers(storage, folder).items():
        if found < number:
            storage.delete(key)


def _numbers(storage: Storage, folder: str) -> dict[str, int]:
    return {key: int(Path(key).stem) for key in storage.list_keys(folder) if Path(key).stem.isdecimal()}
