"""The sum of a column over thousands of CSV files, some of them bad: a bar shows the progress, and bad files are named.

`map` puts as many small files into one call as take about a millisecond. With `return_exceptions=True` a bad file gives its
error in the place of its result, and the others go on. Run it as `python examples/csv_summary.py`; an argument sets the
number of files (5,000), which are written into a temporary directory.
"""

import argparse
import csv
import tempfile
from pathlib import Path

from flame_fast import Runner

ROWS = 20

#: One file in so many is bad, in three ways in turn.
BAD_EVERY = 97
BAD = ["price\nnot a number\n", "cost\n1.5\n", ""]


def total(path: Path) -> float:
    """Return the sum of the column `price` of one file."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if "price" not in (rows.fieldnames or []):
            raise ValueError(f"no column 'price' among {rows.fieldnames}")
        return sum(float(row["price"]) for row in rows)


def write_files(directory: Path, count: int) -> list[Path]:
    """Write the files; those whose prices all are `number % 10` have the sum `ROWS * (number % 10)`."""
    paths = [directory / f"{number:05}.csv" for number in range(count)]
    for number, path in enumerate(paths):
        good = "price,item\n" + f"{number % 10},apple\n" * ROWS
        is_bad = number % BAD_EVERY == BAD_EVERY - 1
        path.write_text(BAD[number // BAD_EVERY % len(BAD)] if is_bad else good)
    return paths


def main() -> None:
    """Write the files, sum them up, and tell which were bad."""
    parser = argparse.ArgumentParser(description="Sum up many CSV files; see the top of this file.")
    parser.add_argument("count", type=int, nargs="?", default=5_000, help="number of files (default: %(default)s)")
    count = parser.parse_args().count

    with tempfile.TemporaryDirectory() as directory:
        paths = write_files(Path(directory), count)
        with Runner("csv-summary") as rr:
            results = list(rr.service(total).map(paths, return_exceptions=True, progress="files"))

    bad = {path: error for path, error in zip(paths, results, strict=True) if isinstance(error, Exception)}
    good = [number for number in range(count) if paths[number] not in bad]
    summed = sum(result for result in results if not isinstance(result, Exception))
    for path, error in bad.items():
        print(f"{path.name}: {type(error).__name__}: {error}")
    assert len(bad) == count // BAD_EVERY
    assert summed == sum(ROWS * (number % 10) for number in good)
    print(f"The sum of {len(good):,} files is {summed:,.0f}; {len(bad)} files are bad.")


if __name__ == "__main__":
    main()
