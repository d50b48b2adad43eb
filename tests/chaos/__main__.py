"""``make chaos SEEDS=20``, ``make chaos SEED=7``: seeds in a row; exit status 1 when one found something."""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from pathlib import Path

from tests.chaos.campaign import SECONDS, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults against a whole installation.")
    parser.add_argument("--seed", type=int, help="play this seed, or the first of several (default: a random one)")
    parser.add_argument("--seeds", type=int, default=1, help="how many in a row (default 1)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"how long faults are played (default {SECONDS})"
    )
    parser.add_argument("--keep", type=Path, help="folder for the logs and databases of seeds that found something")
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    first = given.seed if given.seed is not None else random.SystemRandom().randrange(1_000_000)
    faults: Counter[str] = Counter()
    failed = []
    for seed in range(first, first + given.seeds):
        print(f"seed {seed}", end=" ", flush=True)
        report = asyncio.run(play(seed, seconds=given.seconds, keep=given.keep))
        faults += report.faults
        word = "FOUND" if report.found else "ok"
        print(f"{word} {report.faults.total()} faults, {report.writes} writes, {report.seconds:.1f} s", flush=True)
        for line in report.found:
            print(f"  {line}", flush=True)
        failed += [seed] if report.found else []
    print(json.dumps({"seeds": given.seeds, "failed": failed, "faults": dict(faults.most_common())}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
