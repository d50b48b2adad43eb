"""The bench works; what it measures is not looked at here."""

import asyncio
import json
import sys
from pathlib import Path


async def test_a_part_of_it_measures_and_writes_its_table_and_leaves_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Words\n<!-- growth: written by make bench -->\nold\n<!-- /growth -->\nMore words.\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench", "--quick", "--only", "growth", "--out", str(tmp_path)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    lines = json.loads((tmp_path / "performance.json").read_text())["growth"]
    assert [line["records"] for line in lines] == [400, 2_000]
    assert all(line["events"] < 100 and line["records_per_second"] > 0 for line in lines)
    text = page.read_text()
    assert text.startswith("# Words\n")
    assert text.endswith("More words.\n")
    assert "| 2,000 |" in text
    assert "old" not in text
