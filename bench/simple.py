"""What a script would do: ``simple-salesforce``, a batch of 200 after the other, or record by record.

``python -m bench.simple SOURCE URL batches|records``: prints the seconds that it took.
"""

import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import requests
from simple_salesforce.api import Salesforce

from bench.parts import FIELDS


class _WithoutTls(requests.adapters.HTTPAdapter):
    """simple-salesforce knows https alone; the stand-in on this machine has none."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.url = str(request.url).replace("https://", "http://", 1)
        return super().send(request, *args, **kwargs)


def _rows(source: str) -> Iterator[dict[str, Any]]:
    columns = ", ".join(FIELDS.values())
    with closing(sqlite3.connect(source.removeprefix("sqlite:///"))) as connection:
        for key, *values in connection.execute(f"SELECT id, {columns} FROM items ORDER BY id"):
            yield {"Icao__c": key, **dict(zip(FIELDS, values, strict=True))}


def by_batches(crm: Any, rows: Iterator[dict[str, Any]]) -> None:
    """sObject Collections, which simple-salesforce reaches by its ``restful``."""

    def send(batch: list[dict[str, Any]]) -> None:
        crm.restful("composite/sobjects/Account/Icao__c", method="PATCH", json={"allOrNone": False, "records": batch})

    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append({"attributes": {"type": "Account"}, **row})
        if len(batch) == 200:
            send(batch)
            batch = []
    if batch:
        send(batch)


def by_records(crm: Any, rows: Iterator[dict[str, Any]]) -> None:
    """Its own ``upsert``, which is for one record."""
    for row in rows:
        key = row.pop("Icao__c")
        crm.Account.upsert(f"Icao__c/{key}", row)


WAYS: dict[str, Callable[[Any, Iterator[dict[str, Any]]], None]] = {"batches": by_batches, "records": by_records}


def main(source: str, url: str, way: str) -> float:
    form = {"grant_type": "client_credentials", "client_id": "demo", "client_secret": "demo"}
    token = requests.post(f"{url}/services/oauth2/token", form, timeout=10).json()["access_token"]
    with requests.Session() as session:
        session.mount("https://", _WithoutTls())
        crm: Any = Salesforce(instance_url=url, session_id=token, version="66.0", session=session)
        began = time.perf_counter()
        WAYS[way](crm, _rows(source))
        return time.perf_counter() - began


if __name__ == "__main__":
    print(main(*sys.argv[1:4]))
