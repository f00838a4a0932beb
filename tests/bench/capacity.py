"""What 10,000, 100,000 and 1,000,000 authorizations per second need, from one run of the table of speed.

    make bench && make bench BENCH=capacity
    make bench BENCH=capacity ARGS="other.json --rates 5000 50000 --core-hour 0.03 --wallets 50000000"
    make bench BENCH=capacity ARGS="--write"

Prints tables of Markdown, or with ``--write`` puts them into CAPACITY.md. Every option is an assumption with a default:
prices, how busy a core may be, how long a hold is open.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Final

from bench.table.capacity import Assumptions, CapacityError
from bench.table.capacity_page import RATES, replaced, tables

PAGE: Final = Path(__file__).with_name("CAPACITY.md")


def main() -> None:
    """Parse the command line, compute, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("bench.json"), help="what make bench wrote")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="authorizations per second")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    for field in fields(Assumptions):
        default = getattr(Assumptions(), field.name)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(default), default=default, metavar="N")
    options = parser.parse_args()
    assumed = Assumptions(**{field.name: getattr(options, field.name) for field in fields(Assumptions)})
    try:
        text = tables(json.loads(options.run.read_text(encoding="utf-8")), assumed, options.rates)
        if options.write:
            PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
        else:
            sys.stdout.write(f"{text}\n")
    except FileNotFoundError as error:
        raise SystemExit(f"there is no {error.filename}: run make bench first") from None
    except (CapacityError, json.JSONDecodeError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
