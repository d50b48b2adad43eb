"""What the org has done, in a file that outlives the program: a real CRM forgets nothing when a server of it dies.

One JSON line a call, so that a kill in the midst of an all-or-none call leaves all of it or nothing: ``{"call", "at",
"writes": [{"seq", "object", "key", "values", …}], "refused": [{"object", "key", "code"}]}``; and a line for each change
of a rule, deletion, and emptying.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson


class Keep:
    """A file of lines; without a path, nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._lines: list[Any] = []
        self._file = None
        if path is not None:
            path.touch()
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            self._lines = [orjson.loads(line) for line in whole.splitlines()]
            # A line that the last kill tore was answered to nobody.
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
            self._file = path.open("ab", buffering=0)

    def former(self) -> Iterator[dict[str, Any]]:
        """What was kept before this start, each line once."""
        lines, self._lines = self._lines, []
        yield from lines

    def add(self, **line: Any) -> None:
        if self._file is not None:
            self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
