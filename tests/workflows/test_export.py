"""ExportWorkflow on a real server: order, pause, release, skip, gone, toggles."""

from pathlib import Path

from tests.parts import NO_CITY, put_airports
from tests.workflows.conftest import Exporting
from workflows.export import ExportWorkflow


def airports(path: Path, count: int, without_city: set[int]) -> list[str]:
    """Airports A000, A001, …, where those of these numbers have no city; gives the keys."""
    keys = [f"A{i:03d}" for i in range(count)]
    put_airports(path, [(k, f"Airport {i}", None if i in without_city else f"City {i}") for i, k in enumerate(keys)])
    return keys


async def test_exports_everything_in_order(exporting: Exporting, source_file: Path) -> None:
    keys = airports(source_file, 35, set())
    result = await (await exporting.start()).result()
    assert (result.exported, result.refused, result.gone) == (35, 0, 0)
    assert await exporting.org.written() == keys
    assert result.outcome == "every record was exported"


async def test_pauses_exactly_at_the_refused_record_and_carries_on_when_mended(
    exporting: Exporting, source_file: Path
) -> None:
    keys = airports(source_file, 35, {17})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    progress = await exporting.until_held(handle, "A017")
    assert progress.state == "Paused"
    assert progress.exported == 17
    assert await exporting.org.written() == keys[:17]
    assert exporting.errors()["A017"].state == "held"
    put_airports(source_file, [("A017", "Airport 17", "Mended")])
    result = await handle.result()
    assert (result.exported, result.refused) == (35, 0)
    assert await exporting.org.written() == keys
    assert (await exporting.org.accounts())["A017"]["BillingCity"] == "Mended"
    error = exporting.errors()["A017"]
    assert (error.state, error.closed_by) == ("closed", "export")
    assert error.attempts >= 2


async def test_signal_off_releases_the_held_record(exporting: Exporting, source_file: Path) -> None:
    keys = airports(source_file, 35, {17, 20})
    await exporting.org.rule("city", NO_CITY)
    handle = await exporting.start()
    await exporting.until_held(handle, "A017")
    await handle.signal(ExportWorkflow.set_pause_on_error, False)
    result = await handle.result()
    assert (result.exported, result.refused) == (33, 2)
    assert sorted(await exporting.org.written()) == [k for k in keys if k not in ("A017", "A020")]
    assert {k: e.state for k, e in exporting.errors().items()} == {"A017": "open", "A020": "open"}
    assert "2 records were left out" in result.outcome
