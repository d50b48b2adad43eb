"""The seeds that found something, once more: ``make chaos SEEDS=20`` plays others."""

from pathlib import Path

import pytest

from tests.chaos.campaign import play


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "seed",
    [
        2,  # a worker was killed while it began a run, and the run stood still for half an hour
        1017,  # a resumed worker's older attempt took over from a newer one, and the run failed
        2001,  # a killed Temporal server forgot a run that its Schedule had started, and a second one began
    ],
)
async def test_faults_leave_nothing_wrong(seed: int, tmp_path: Path) -> None:
    report = await play(seed, keep=tmp_path)
    assert report.found == [], f"make chaos SEED={seed}; logs and databases are in {tmp_path}"
    # Nothing is proven by a campaign in which nothing happened.
    assert report.faults.total() >= 10
    assert report.writes >= 80
    assert report.looks >= 10
