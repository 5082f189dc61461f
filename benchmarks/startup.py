"""How long a person waits for a first answer: one table of whole-process seconds.

    python benchmarks/startup.py

The limit is the bare interpreter's start.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "python -c pass (limit)": ["-c", "pass"],
    "import mmgenre": ["-c", "import mmgenre"],
    "mmgenre --help": ["-m", "mmgenre.cli", "--help"],
    "python train.py --help": ["train.py", "--help"],
    "python evaluate.py --help": ["evaluate.py", "--help"],
}
RUNS = 5


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    print("| command | median of 5, s |")
    print("|---|---:|")
    for name, arguments in COMMANDS.items():
        seconds(arguments)  # file caches
        print(f"| {name} | {statistics.median(seconds(arguments) for _ in range(RUNS)):.2f} |")


if __name__ == "__main__":
    main()
