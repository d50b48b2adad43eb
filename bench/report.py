"""The results as JSON, as tables in performance.md, and as a plot."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

mpl.use("Agg")
# The same results give the same file.
mpl.rcParams["svg.hashsalt"] = "crm-export"
_BEGIN, _END = "<!-- {name}: written by make bench -->", "<!-- /{name} -->"


def write(results: dict[str, Any], folder: Path) -> None:
    """Write all three; of performance.md only what stands between a part's marks."""
    (folder / "performance.json").write_text(json.dumps(results, indent=1) + "\n")
    page = folder / "performance.md"
    text = page.read_text() if page.exists() else "\n".join(_mark(name, "") for name in _TABLES)
    for name, table in _TABLES.items():
        if name in results:
            begin, end = _BEGIN.format(name=name), _END.format(name=name)
            before, _, rest = text.partition(begin)
            text = before + _mark(name, table(results[name])) + rest.partition(end)[2]
    page.write_text(text)
    if {"at_once", "others", "growth"} <= set(results):
        _plot(results, folder / "images" / "performance.svg")


def _mark(name: str, text: str) -> str:
    return f"{_BEGIN.format(name=name)}\n{text}\n{_END.format(name=name)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _speed(lines: list[dict[str, Any]]) -> str:
    raw = {(line["answer_seconds"], line["concurrency"]): line for line in lines if line["way"] == "raw loop"}
    return _table(
        [
            "answers",
            "concurrency",
            "records",
            "raw loop, records/s",
            "engine, records/s",
            "engine / raw",
            "engine / ideal",
        ],
        [
            [
                _answers(line["answer_seconds"]),
                line["concurrency"],
                line["records"],
                raw[line["answer_seconds"], line["concurrency"]]["records_per_second"],
                line["records_per_second"],
                f"{line['of_raw']:.2f}",
                None if line["of_ideal"] is None else f"{line['of_ideal']:.3f}",
            ]
            for line in lines
            if line["way"] == "engine"
        ],
    )


def _others(lines: list[dict[str, Any]]) -> str:
    return _table(
        [
            "way",
            "records/s",
            "records measured",
            "events",
            "history, KB",
            "actions per million records",
            "worker's peak, MB",
        ],
        [
            [
                line["way"],
                line["records_per_second"],
                line["records"],
                line.get("events"),
                round(line["history_bytes"] / 1000) if "history_bytes" in line else None,
                line.get("actions_per_million"),
                line.get("peak_mb"),
            ]
            for line in lines
        ],
    )


def _growth(lines: list[dict[str, Any]]) -> str:
    return _table(
        ["records", "records/s", "executions", "events", "history, bytes", "actions", "worker's peak, MB"],
        [
            [
                line[name]
                for name in (
                    "records",
                    "records_per_second",
                    "executions",
                    "events",
                    "history_bytes",
                    "actions",
                    "peak_mb",
                )
            ]
            for line in lines
        ],
    )


def _actions(found: dict[str, Any]) -> str:
    rows: list[list[Any]] = [
        [run["records"], run["seconds"], run["heartbeats"], run["actions"]] for run in found["runs"]
    ]
    return _table(
        ["records", "seconds", "heartbeats that reached the server", "actions"],
        [*rows, ["1,000,000 (extrapolated)", None, None, found["actions_per_million"]]],
    )


def _latency(found: dict[str, Any]) -> str:
    return _table(
        [f"{found['samples']} samples", "p50, ms", "p99, ms"],
        [[name, value["p50"], value["p99"]] for name, value in found["milliseconds"].items()],
    )


def _storms(found: list[dict[str, Any]]) -> str:
    runs = [
        [
            on["store"],
            f"{run['case']}, answers {_answers(on['answer_seconds'])}",
            run["records_per_second"],
            f"{run['of_none_refused']:.2f}",
        ]
        for on in found
        for run in on["runs"]
    ]
    again = [
        [
            on["store"],
            f"re-export, {outcome}",
            run["records_per_second"],
            None,
            run["largest_history_events"],
            run["peak_mb"],
        ]
        for on in found
        for outcome, run in on["reexport"].items()
    ]
    alone = [
        [on["store"], "rows into ExportErrors, the store alone", on["store_rows_per_second"]]
        for on in found
        if on["store_rows_per_second"]
    ]
    rows = [[*row, *[None] * (6 - len(row))] for row in (*runs, *alone, *again)]
    head = ["store", f"{found[0]['records']:,} records", "records/s", "of none refused", "events", "worker's peak, MB"]
    return _table(head, rows)


def _answers(seconds: float) -> str:
    return f"after {seconds * 1000:.0f} ms" if seconds else "at once"


def _many(found: dict[str, Any]) -> str:
    memory = found["worker_mb"]
    return _table(
        ["one worker", "figure"],
        [
            [f"{found['paused']} paused exports: CPU, share of a core", f"{found['idle_percent_of_a_core']} %"],
            ["worker's memory before, with all of them, at its peak, MB", ", ".join(map(str, memory.values()))],
            [f"{found['running']} running beside them, answers after 500 ms: records/s", found["records_per_second"]],
            ["… of the ideal", found["of_ideal"]],
            ["… CPU, share of a core", f"{found['percent_of_a_core']} %"],
        ],
    )


def _fairness(found: dict[str, Any]) -> str:
    return _table(
        [
            f"{found['others']} customers with one export of {found['records_each']:,} records each",
            "seconds, median",
            "slowest",
        ],
        [
            ["alone", found["seconds_alone"], None],
            [
                f"beside one with {found['busy_exports']} exports",
                found["seconds_beside_busy"],
                found["slowest_beside_busy"],
            ],
        ],
    )


def _recovery(lines: list[dict[str, Any]]) -> str:
    return _table(
        ["heartbeat", "kill -9 to the next write, s", "records sent twice", "… in seconds of answers, at most"],
        [
            [
                line["heartbeat"],
                ", ".join(map(str, line["seconds_to_next_write"])),
                ", ".join(f"{count:,}" for count in line["records_sent_twice"]),
                line["seconds_of_answers_sent_twice"],
            ]
            for line in lines
        ],
    )


_TABLES: dict[str, Callable[[Any], str]] = {
    "at_once": _speed,
    "answers": _speed,
    "others": _others,
    "growth": _growth,
    "actions": _actions,
    "latency": _latency,
    "storms": _storms,
    "many": _many,
    "fairness": _fairness,
    "recovery": _recovery,
}


def _plot(results: dict[str, Any], file: Path) -> None:
    """Left: records a second of each way, answers at once. Right: how history and memory grow with the records."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    at_once = [line for line in results["at_once"] if line["concurrency"] == 8]
    ways = {line["way"]: line["records_per_second"] for line in (*results["others"], *at_once)}
    names = sorted(ways, key=lambda way: ways[way])
    bars = left.barh(
        names, [ways[name] for name in names], color=["#d95f02" if n == "engine" else "#999" for n in names]
    )
    left.bar_label(bars, labels=[f" {ways[name]:,}" for name in names], fontsize=8)
    left.set_xscale("log")
    left.set_xlim(1, 5_000_000)
    left.set_title("records a second, answers at once", fontsize=10)
    left.tick_params(labelsize=8)
    sizes = [line["records"] for line in results["growth"]]
    for name, label in (
        ("events", "events of history"),
        ("peak_mb", "worker's peak memory, MB"),
        ("actions", "Temporal actions"),
    ):
        right.plot(sizes, [line[name] for line in results["growth"]], marker="o", label=label)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_ylim(1, 1_000)
    right.set_xlabel("records exported", fontsize=9)
    right.set_title("what an export leaves in Temporal, and takes of memory", fontsize=10)
    right.legend(fontsize=8)
    right.tick_params(labelsize=8)
    for side in (left, right):
        side.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
