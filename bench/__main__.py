"""``make bench``: everything that docs/performance.md says, measured in one run on this machine.

``python -m bench [--quick] [--only PART …] [--out FOLDER]``: writes ``performance.json``, the tables of
``performance.md`` and ``performance.svg`` into FOLDER (docs). ``--quick`` is the same with few records, to see that
the bench works; its figures say nothing. ``--only`` keeps the other parts as the JSON has them.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import growth, latency, many, recovery, report, speed, storms
from bench.parts import Stage, stage

Part = Callable[[Stage], Awaitable[Any]]

FULL: dict[str, Part] = {
    "others": lambda s: speed.others(s, speed.Sizes()),
    "at_once": lambda s: speed.at_once(s, speed.Sizes()),
    "answers": lambda s: speed.answers(s, speed.Sizes()),
    "growth": lambda s: growth.measure(s, growth.SIZES, 3),
    "actions": lambda s: growth.actions(s, (20_000, 100_000)),
    "latency": lambda s: latency.measure(s, 200),
    "storms": lambda s: storms.measure(s, 100_000, 3),
    "many": lambda s: many.measure(s, 500, 50, 30, 24_000),
    "fairness": lambda s: many.fairness(s, 150, 5, 4_000),
    "recovery": lambda s: recovery.measure(s, ("5s", "30s"), 3, 20_000),
}
QUICK: dict[str, Part] = {
    "others": lambda s: speed.others(s, speed.QUICK),
    "at_once": lambda s: speed.at_once(s, speed.QUICK),
    "answers": lambda s: speed.answers(s, speed.QUICK),
    "growth": lambda s: growth.measure(s, (400, 2_000), 1),
    "actions": lambda s: growth.actions(s, (400, 1_000), 0.1),
    "latency": lambda s: latency.measure(s, 3),
    "storms": lambda s: storms.measure(s, 4_000, 1),
    "many": lambda s: many.measure(s, 25, 10, 1, 1_200),
    "fairness": lambda s: many.fairness(s, 5, 2, 400),
    "recovery": lambda s: recovery.measure(s, ("2s",), 1, 4_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few records: does the bench itself work?")
    parser.add_argument("--only", nargs="+", choices=list(FULL), metavar="PART", help=", ".join(FULL))
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the results (default docs)")
    given = parser.parse_args()
    parts = QUICK if given.quick else FULL
    file = given.out / "performance.json"
    results: dict[str, Any] = json.loads(file.read_text()) if given.only and file.exists() else {}
    for name in given.only or parts:
        began = time.monotonic()
        # A Temporal server of its own for each part: none carries another's workflows.
        with stage() as measured:
            results[name] = asyncio.run(_measured(parts[name], measured))
        print(f"{name:10} {time.monotonic() - began:6.0f} s", file=sys.stderr, flush=True)
        results["machine"] = _machine()
        report.write(results, given.out)


async def _measured(part: Part, on: Stage) -> Any:
    return await part(on)


def _machine() -> dict[str, Any]:
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


if __name__ == "__main__":
    main()
