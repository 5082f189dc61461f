"""What each modality is worth on the demo movies: one table of held-out macro F1.

    python benchmarks/modalities.py [seed ...]

Trains the quickstart with both modalities and with each alone; selection on validation, figures on
the test movies.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODALITIES = {"both": "[image, text]", "poster": "[image]", "plot": "[text]"}


def run(output_dir: Path, modalities: str, seed: str) -> tuple[float, float, float]:
    """Macro F1 on validation and test, and seconds of training and evaluation."""
    started = time.perf_counter()
    quickstart = ["train.py", "--recipe", "quickstart", "--output_dir", str(output_dir)]
    call([*quickstart, "--seed", seed, "--model_config", f"modalities={modalities}"])
    figures = []
    for split in ("validation", "test"):
        call(["evaluate.py", str(output_dir), "--split", split])
        metrics = json.loads((output_dir / "reports" / split / "metrics.json").read_text())
        figures.append(metrics["overall"]["f1_macro"])
    return figures[0], figures[1], time.perf_counter() - started


def call(arguments: list[str]) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def main() -> None:
    print("| seed | modalities | validation macro F1 | test macro F1 | seconds |")
    print("|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for seed in sys.argv[1:] or ["42"]:
            for name, modalities in MODALITIES.items():
                validation, test, seconds = run(Path(folder) / f"{name}{seed}", modalities, seed)
                print(
                    f"| {seed} | {name} | {validation:.3f} | {test:.3f} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
