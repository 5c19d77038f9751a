"""Whole programs, from the command to its end, written for each contender as its users write them.

A project of many CSV files beside the script: each is read with pandas, summarised, and its summary written beside the
script. The module with the work is the same for all; the scripts differ by the lines that make the pool.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

FILES = 3_000
ROWS = 1_000
KINDS = ["apple", "pear", "plum", "quince"]

WORK = """\
from pathlib import Path
import pandas as pd

HERE = Path(__file__).parent

def summarise(name):
    table = pd.read_csv(HERE / "data" / name)
    summary = table[["price", "weight"]].mean()
    summary.to_csv(HERE / "summaries" / name)
    return float(table["price"].sum())
"""

BEGIN = """\
import os
from pathlib import Path
from work import HERE, summarise
"""

END = """
    print(f"{sum(sums):.2f}")
"""

OURS, FORK, LOKY = "flame_fast", "ProcessPoolExecutor (fork)", "joblib (loky)"

SCRIPTS = {
    OURS: """\
from flame_fast import Runner
if __name__ == "__main__":
    names = sorted(os.listdir(HERE / "data"))
    with Runner("summaries", workers=2) as rr:
        sums = list(rr.service(summarise).map(names))
""",
    FORK: """\
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
if __name__ == "__main__":
    names = sorted(os.listdir(HERE / "data"))
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        sums = list(pool.map(summarise, names))
""",
    LOKY: """\
from joblib import Parallel, delayed
if __name__ == "__main__":
    names = sorted(os.listdir(HERE / "data"))
    sums = Parallel(n_jobs=2)(delayed(summarise)(name) for name in names)
""",
}


class CsvProject:
    """The project in a directory, with a script for each contender."""

    def __init__(self, directory: Path, files: int = FILES) -> None:
        self.directory = directory
        (directory / "data").mkdir(parents=True)
        (directory / "work.py").write_text(WORK)
        chance = random.Random(1)
        for number in range(files):
            rows = (
                f"{chance.choice(KINDS)},{chance.uniform(0.1, 9):.4f},{chance.uniform(50, 400):.3f},note {row}"
                for row in range(ROWS)
            )
            (directory / "data" / f"{number:05}.csv").write_text("kind,price,weight,note\n" + "\n".join(rows) + "\n")
        for number, script in enumerate(SCRIPTS.values()):
            (directory / f"main_{number}.py").write_text(BEGIN + script + END)

    def run(self, contender: str) -> str:
        """Run a contender's script without the summaries of the one before; return what it prints."""
        summaries = self.directory / "summaries"
        shutil.rmtree(summaries, ignore_errors=True)
        summaries.mkdir()
        number = list(SCRIPTS).index(contender)
        done = subprocess.run(
            [sys.executable, f"main_{number}.py"], cwd=self.directory, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout
