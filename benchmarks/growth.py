"""How time and memory grow with depth, width, tokens, documents and runs.

Each measurement is a process of its own, which reports its own time for the work and
its peak memory, so that no case inherits another's. `figure` draws them on logarithmic
axes with the slope between the ends of each line.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import COLUMNS, RESULTS, Row

REPEATS = 3
AXES: dict[str, list[int]] = {  # along which cost grows, and where it is measured
    "depth (training step)": [2, 4, 8, 16],
    "width (training step)": [64, 128, 256, 512],
    "context (training step)": [64, 128, 256, 512],
    "steps (training)": [5, 10, 20, 40],
    "documents (sharding)": [2000, 4000, 8000, 16_000],
    "runs (expansion of a study)": [100, 200, 400, 800],
}


def run() -> list[Row]:
    """Seconds and MB of every point and repeat; the figure beside the results."""
    rows: list[Row] = []
    for case, points in AXES.items():
        for repeat in range(REPEATS):
            for point in points:
                command = [sys.executable, "-m", "benchmarks.growth", case, str(point)]
                done = subprocess.run(command, check=True, capture_output=True)
                for unit, value in json.loads(done.stdout).items():
                    cells = ("growth", case, str(point), repeat, value, unit)
                    rows.append(dict(zip(COLUMNS, cells, strict=True)))
    figure(rows)
    return rows


def measure(case: str, point: int) -> dict[str, float]:
    """Seconds of the work, and the largest memory this process has held, in MB."""
    kind = case.split(" (")[0]
    maker = {"documents": sharding, "runs": summaries}.get(kind)
    call = maker(point) if maker else training(kind, point)
    before = time.perf_counter()
    call()
    taken = time.perf_counter() - before
    return {
        "s": taken,
        "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def training(kind: str, point: int) -> Callable[[], object]:
    """Steps of 1,024 tokens at d = 128, 4 blocks and T = 128, but for one of them."""
    import torch

    from benchmarks import models
    from shallower.training.step import make_optimizer, training_step

    torch.set_num_threads(1)
    context = point if kind == "context" else 128
    sizes = models.WIDER | {"context": context}
    if kind == "width":
        sizes |= {"width": point, "ffn_hidden": round(2.6875 * point)}
    depth = point if kind == "depth" else 4
    model = models.ours(depth, **sizes).train()
    settings = models.settings()
    optimizer = make_optimizer(model, settings)
    ids = torch.randint(sizes["vocabulary"], (1024 // context, context))

    def steps(count: int) -> None:
        for _ in range(count):
            training_step(model, optimizer, ids, ids, settings)

    steps(2)
    return lambda: steps(point if kind == "steps" else 5)


def sharding(documents: int) -> Callable[[], object]:
    """One shard of so many documents of made-up sentences."""
    import random
    import tempfile
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet

    from shallower.tokens import shards, tokenizer

    draw, folder = random.Random(0), Path(tempfile.mkdtemp())
    words = [
        "".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(5000)
    ]
    texts = [" ".join(draw.choices(words, k=120)) for _ in range(documents)]
    pyarrow.parquet.write_table(pa.table({"text": texts}), folder / "text.parquet")
    tokenizer.train(texts[:1000], 1000, folder / "tokenizer.model")
    pieces = tokenizer.Tokenizer(folder / "tokenizer.model")
    shard = folder / "shard-0.bin"
    return lambda: shards.write_shard(folder / "text.parquet", pieces, 0, 1, shard)


def summaries(runs: int) -> Callable[[], object]:
    """Expanding a study of so many runs into specifications."""
    from pathlib import Path

    import yaml

    from shallower.study.study import load_study

    path = Path(__file__).resolve().parents[1] / "config.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    config["experiments"] = {
        "depth": [
            {
                "variants": ["baseline", "proposed"],
                "depths": [5, 8],
                "seeds": list(range(math.ceil(runs / 4))),
            }
        ]
    }
    config["contrasts"] = []

    def expand() -> None:
        study = load_study(config)
        for model, seed in study.runs:
            study.spec(model, seed)
            study.scored_on(model, seed)

    return expand


def figure(rows: list[Row]) -> None:
    """`results/growth.svg`: a panel an axis, time and memory with their slopes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    plt.rcParams |= {"svg.hashsalt": "growth", "font.size": 8}
    table = pd.DataFrame(rows).astype({"implementation": int})
    middle = table.groupby(["case", "unit", "implementation"])["value"].median()
    drawing, panels = plt.subplots(2, 3, figsize=(9, 5), constrained_layout=True)
    for panel, case in zip(panels.flat, AXES, strict=True):
        for unit, colour in (("s", "#0072B2"), ("MB", "#D55E00")):
            line = middle[case, unit]
            ends = line.iloc[[0, -1]]
            slope = math.log(ends.iloc[1] / ends.iloc[0]) / math.log(
                ends.index[1] / ends.index[0]
            )
            label = f"{unit}: slope {slope:.2f}"
            panel.loglog(line.index, line, "o-", color=colour, label=label)
        panel.set_title(case)
        panel.set_xticks(AXES[case], [f"{x:,}" for x in AXES[case]])
        panel.minorticks_off()
        panel.legend(frameon=False)
    drawing.savefig(RESULTS / "growth.svg", metadata={"Date": None})
    plt.close(drawing)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
