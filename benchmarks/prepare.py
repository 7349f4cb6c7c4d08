"""Text recordings to a store beside pandas reading the same text: time and peak memory.

Files of OPPORTUNITY's size (24 runs, 250 columns; `--people 1` takes a quarter) are simulated in the
native format.
- `prepare_vs_pandas`: time in which taskloom turns the files into a store (read, checked, cleaned, hashed,
  written and synced to disk) over the time in which `pandas.read_csv` with its C engine reads the same
  files, one after the other, keeping none. Both in processes of their own, in turns; medians are compared.
- `prepare_vs_pandas_one_space`: the same over the time in which pandas reads them when it is told that words
  stand one space apart, which is quicker than any white space; no target, for whoever knows that.
- `peak_mib`: peak resident memory of the preparing process, imports and all, in MiB (no ratio).

Run it with `python benchmarks/prepare.py`; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from taskloom.data.readers.opportunity import OpportunityReader
from taskloom.data.recording_source import prepare
from taskloom.data.simulate.opportunity import simulate_opportunity

TARGETS = {"prepare_vs_pandas": 1.2, "peak_mib": 1024.0}
MIB = 1024 * 1024


def with_pandas(folder: Path, separator: str = r"\s+") -> int:
    """Reads every file as a user would by hand; returns the number of rows."""
    rows = 0
    for path in sorted(folder.glob("*.dat")):
        rows += len(pd.read_csv(path, sep=separator, header=None, engine="c"))
    return rows


def with_taskloom(folder: Path) -> int:
    """Prepares a store of the files; returns the number of rows that are in it."""
    with tempfile.TemporaryDirectory(prefix="taskloom-stores-", dir=folder.parent) as stores:
        store, _ = prepare(OpportunityReader(folder), Path(stores))
        return len(store.samples)


WAYS: dict[str, Callable[[Path], int]] = {
    "pandas": with_pandas,
    "pandas, one space": partial(with_pandas, separator=" "),
    "taskloom": with_taskloom,
}


def measure(way: str, folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    rows = WAYS[way](folder)
    return {
        "seconds": time.perf_counter() - start,
        "rows": rows,
        "peak": _peak_bytes(),
    }


def _peak_bytes() -> int:
    """Peak resident set of this process image; unlike ru_maxrss it does not inherit the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this benchmark needs Linux")


def in_fresh_process(way: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", way, "--folder", str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--people", type=int, default=4, help="people; the real set has 4")
    parser.add_argument("--seconds", type=float, default=1200.0, help="seconds of a daily-living run")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--measure", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="taskloom-prepare-") as temporary:
        folder = simulate_opportunity(
            Path(temporary) / "full", people=arguments.people, seconds_per_run=arguments.seconds
        )
        text = sum(path.stat().st_size for path in folder.glob("*.dat"))
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        with_pandas(folder)  # the files are in the page cache for both
        for _ in range(arguments.rounds):
            for way, results in found.items():
                results.append(in_fresh_process(way, folder))
    seconds = {
        way: statistics.median(result["seconds"] for result in results) for way, results in found.items()
    }
    rows = int(found["pandas"][0]["rows"])
    print(f"{rows:,} rows, {text / MIB:,.0f} MiB of text; medians of {arguments.rounds} turns")
    for way, value in seconds.items():
        print(f"{way:<17} {value:7.2f} s, {text / MIB / value:6.1f} MiB of text per second")
    ratios = {
        "prepare_vs_pandas": seconds["taskloom"] / seconds["pandas"],
        "prepare_vs_pandas_one_space": seconds["taskloom"] / seconds["pandas, one space"],
        "peak_mib": max(result["peak"] for result in found["taskloom"]) / MIB,
    }
    for name, value in ratios.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else "met" if value <= target else "MISSED"
        goal = "" if target is None else f"target <= {target:g}"
        print(f"{name:<28} {value:.3f}  {goal}  {verdict}".rstrip())
    print(json.dumps({name: round(value, 4) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()
