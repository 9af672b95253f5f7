"""Changes to files as damage and malice make them: bits, blocks, lengths, numbers and whole parts of trees."""

import functools
import json
import math
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

EXTREME_SIZES = (
    0,
    1,
    2,
    7,
    15,
    16,
    17,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
EXTREME_SIZES += (2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
EXTREME_NODES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 0.5, 17, 2**31, 2**63, -(2**63), 2**64, 10**400),
    *(math.nan, math.inf, -math.inf, 1e308, -0.0),
    *("", "x", "x" * 5000, "\ud800", "\x00", "../../x", "/etc/passwd", "|O", "<f4", "blosc2-zstd", "é"),
    *([], [[]], {}, {"": {}}, [0] * 500, {"tuple": [1]}, {"dict": [[[], 1]]}, {"array": -1}, {"tensor": "x"}),
)
EXTREME_WORDS = (
    *(
        b"",
        b"-1",
        b"0",
        b"1e999",
        b"nan",
        b".nan",
        b"NaN",
        b"Infinity",
        b"99999999999999999999",
        b"9" * 5000,
        b"0x10",
        b"2024-13-45",
    ),
    *(
        b"null",
        b"~",
        b"true",
        b"[]",
        b"{}",
        b"[" * 2000,
        b"{a: " * 500,
        b"&a [*a]",
        b"*x",
        b"!!python/name:os.system",
        b"!x",
        b'"',
        b"\xff",
    ),
    *(b"\x00", b"\r", b"\t", b": ", b"- ", b"# ", b"\xe2\x80\xa8", b"<<: *a", b"? ", b"%YAML 9.9\n---\n"),
)
_WORD = re.compile(rb"[A-Za-z0-9_.+-]+")

Random = np.random.Generator
Mutation = Callable[[bytes, Random], bytes]


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Change a file in one to three places."""
    for _ in range(int(random.integers(1, 4))):
        content = _BYTES[int(random.integers(len(_BYTES)))](content, random)
    return content


def mutate_text(content: bytes, random: Random) -> bytes:
    """Change words or bytes of a text."""
    if random.random() < 0.3:
        return mutate_bytes(content, random)
    for _ in range(int(random.integers(1, 4))):
        words = list(_WORD.finditer(content))
        if not words:
            break
        word = words[int(random.integers(len(words)))]
        other = words[int(random.integers(len(words)))]
        new = _one_of(EXTREME_WORDS, random) if random.random() < 0.7 else other.group()
        content = content[: word.start()] + new + content[word.end() :]
    return content


def mutate_json(content: bytes, random: Random) -> bytes:
    """Change the tree of a JSON text, or its words or bytes."""
    if random.random() < 0.3:
        return mutate_text(content, random)
    return json.dumps(mutate_tree(json.loads(content), random)).encode()


def mutate_tree(tree: Any, random: Random) -> Any:
    """Replace, remove or repeat one to three parts of lists and dictionaries, at any depth."""
    for _ in range(int(random.integers(1, 4))):
        parents = list(_parents(tree))
        if not parents:
            return deepcopy(_one_of(EXTREME_NODES, random))
        parent = parents[int(random.integers(len(parents)))]
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = keys[int(random.integers(len(keys)))]
        match int(random.integers(6)):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, list):
                parent.insert(key, deepcopy(parent[key]))
            case 1:
                parent[_one_of(("x", "", "name", "dtype"), random)] = deepcopy(parent[key])
            case 2:
                parent[key] = deepcopy(parent[keys[int(random.integers(len(keys)))]])
            case 3 if random.random() < 0.05:
                parent[key] = _deep()
            case _:
                parent[key] = deepcopy(_one_of(EXTREME_NODES, random))
    return tree


def _deep() -> Any:
    return functools.reduce(lambda tree, _: [tree], range(400), 0)


def _parents(tree: Any) -> Any:
    """Yield every list and dictionary that is not empty."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (list, dict)) and node:
            yield node
            pending += node.values() if isinstance(node, dict) else node


def _one_of(values: Any, random: Random) -> Any:
    return values[int(random.integers(len(values)))]


def _block(content: bytes, random: Random) -> tuple[int, int]:
    """Return where a block begins and ends, most often a short one."""
    begin = int(random.integers(len(content) + 1))
    size = int(random.integers(1, 1 + max(1, min(len(content), 2 ** int(random.integers(1, 16))))))
    return begin, min(len(content), begin + size)


def _flip_bits(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        if changed:
            changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def _set_bytes(content: bytes, random: Random) -> bytes:
    begin, end = _block(content, random)
    filling = _one_of((b"\x00", b"\xff", b"\x80", b" ", b"\x7f"), random)
    return content[:begin] + filling * (end - begin) + content[end:]


def _set_number(content: bytes, random: Random) -> bytes:
    """Replace what may be a length or a number."""
    size = _one_of((1, 2, 4, 8), random)
    number = int(_one_of(EXTREME_SIZES, random)) % 256**size
    at = int(random.integers(len(content) + 1))
    # Most formats align their numbers.
    at -= at % size if random.random() < 0.7 else 0
    return content[:at] + number.to_bytes(size, _one_of(("little", "big"), random)) + content[at + size :]


def _set_real(content: bytes, random: Random) -> bytes:
    size = _one_of((4, 8), random)
    at = int(random.integers(len(content) + 1)) // 4 * 4
    real = np.array(_one_of((math.nan, math.inf, -math.inf, 0.0, -1.0, 1e30, 1e-30), random), f"<f{size}").tobytes()
    return content[:at] + real + content[at + size :]


def _cut(content: bytes, random: Random) -> bytes:
    return content[: int(random.integers(len(content) + 1))]


def _remove(content: bytes, random: Random) -> bytes:
    begin, end = _block(content, random)
    return content[:begin] + content[end:]


def _repeat(content: bytes, random: Random) -> bytes:
    begin, end = _block(content, random)
    at = int(random.integers(len(content) + 1))
    return content[:at] + content[begin:end] + content[at:]


def _exchange(content: bytes, random: Random) -> bytes:
    begin, end = _block(content, random)
    at = int(random.integers(len(content) + 1))
    return content[:at] + content[begin:end] + content[at + end - begin :]


def _insert(content: bytes, random: Random) -> bytes:
    at = int(random.integers(len(content) + 1))
    return content[:at] + random.bytes(int(random.integers(1, 64))) + content[at:]


_BYTES: tuple[Mutation, ...] = (
    *(_flip_bits, _flip_bits, _set_bytes, _set_number, _set_number, _set_number),
    *(_set_real, _cut, _remove, _repeat, _exchange, _insert),
)
