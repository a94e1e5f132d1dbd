"""What the paper quotes from the project's benchmark of decoding, `benchmarks/`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from shallower.code import ROOT
from shallower.files import read_json
from shallower.reporting.latex import escape, number

FOLDER = ROOT.parents[1] / "benchmarks" / "results"  # kept with the code
SIZES = {"original": "paper size", "study": "study size"}
OURS, THEIRS = "shallower, compiled", "Hugging Face"


def numbers(folder: Path = FOLDER) -> Iterator[tuple[str, str]]:
    """`benchmark.device`, `.commit`, and `.<scale>.<blocks>`: median, low, high.

    Hugging Face's time for a token over ours in the same repeat, in fp32.
    """
    about = read_json(folder / "about.json")
    yield "benchmark.device", escape(about["device"])
    yield "benchmark.commit", escape(about["commit"])
    yield "benchmark.transformers", escape(about["versions"]["transformers"])
    table = pd.read_csv(folder / "decode.csv")
    index = ["case", "repeat"]
    times = table.pivot(index=index, columns="implementation", values="value")
    ratios = times[THEIRS] / times[OURS]
    for scale, size in SIZES.items():
        for blocks in (5, 8):
            found = ratios[f"{size}, {blocks} blocks, float32"]
            key = f"benchmark.{scale}.{blocks}"
            yield key, number(found.median(), 1)
            yield f"{key}.low", number(found.min(), 1)
            yield f"{key}.high", number(found.max(), 1)
