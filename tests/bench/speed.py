"""Everything that has a goal of speed in one table, beside bare servers, the store alone and what users build.

    make bench ARGS="--rounds 7 --json table.json"
    make bench ARGS="--rows 'session|echo c'"

Starts its own stores and servers. Every round goes through all rows, so that a machine which is busy for a while slows
all of them; a cell is the median of the rounds, a ratio the median of the rounds' own ratios. README.md reads it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

# Before gRPC is imported: its fork handlers would have a say in every program that is started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import uvloop

from bench.load.generator import Generator
from bench.table.report import as_json, as_text
from bench.table.rounds import Rounds
from bench.table.rows import all_rows
from bench.table.samples import Samples
from bench.table.stacks import open_stack
from drawdown_server.telemetry.logs import configure_logs

WARM_UP = 0.3
"""Of the calls, in a round that does not count."""


async def measure(directory: Path, options: argparse.Namespace) -> tuple[Samples, dict[str, str]]:
    """Start everything, then round after round; what was measured, and why some rows were not."""
    samples = Samples()
    async with open_stack(directory) as stack:
        rows = [row for row in all_rows(stack, Generator(directory)) if re.search(options.rows, row.name)]
        if not rows:
            raise SystemExit(f"no row matches {options.rows!r}")
        rounds = Rounds(options.calls)
        await rounds.one(rows, share=WARM_UP)
        for number in range(options.rounds):
            sys.stderr.write(f"round {number + 1} of {options.rounds}\n")
            samples.rounds.append(await rounds.one(rows))
    samples.leave_out(rounds.failed)
    return samples, rounds.failed


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5_000, help="of one run of the usual row")
    parser.add_argument("--rows", default="", metavar="REGEX", help="only those whose name matches; default: all")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="everything that was measured goes there")
    options = parser.parse_args()
    configure_logs("WARNING", "json")  # of the flusher in this process
    with tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory:
        samples, failed = uvloop.run(measure(Path(directory), options))
    sys.stdout.write(f"\n{as_text(samples)}")
    options.json.write_text(f"{as_json(samples)}\n", encoding="utf-8")
    if failed:
        raise SystemExit("\n".join(f"left out: {row}: {reason}" for row, reason in failed.items()))


if __name__ == "__main__":
    main()
