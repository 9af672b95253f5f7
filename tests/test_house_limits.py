"""Files that can be read in one sitting, in rooms that can be taken in at a glance."""

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [path for room in ("orchestrator", "kernels", "tests", "bench") for path in (ROOT / room).rglob("*.py")]


def test_no_file_is_longer_than_400_lines():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert len(lengths) > 400
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > 400} == {}


def test_no_room_has_more_than_16_files():
    rooms = Counter(path.parent.relative_to(ROOT) for path in FILES)
    code = {str(room): number for room, number in rooms.items() if room.parts[0] in {"orchestrator", "kernels"}}
    assert len(code) > 25
    assert {room: number for room, number in code.items() if number > 16} == {}
