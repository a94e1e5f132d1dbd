"""A small run with everything that its evaluation reads, and its evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from models_for_tests import tiny
from runs_for_tests import run_spec, write_corpus, write_run
from shallower.evaluation.evaluate import Texts, evaluate
from shallower.files import read_json
from shallower.study.runs import EvaluationSpec, InterventionText
from shallower.tokens.tokenizer import Tokenizer

CONTEXT, PROMPT, DEPTH, SEED = 32, 24, 4, 1
CONFIG = tiny("proposed", depth=DEPTH)
NOTHING = ["skip=attention.last.0", "eliminate=acc.1"]
WRITTEN = [
    *NOTHING,
    "skip=attention.last.2",
    "skip=ffn.cosine.2",
    "skip=attention.greedy.1",
    "skip=attention.greedy.2",
    "skip=block.greedy.1",
    "eliminate=acc.1.5",
    "eliminate=random.1.5",
    "eliminate=window.1.5",
    "skip=attention.last_but_one.2__eliminate=uniform.1.5",
]


def parsed(written: str) -> InterventionText:
    return InterventionText(**dict(part.split("=") for part in written.split("__")))


def spec(written: list[str] | None = None, **changes: Any) -> EvaluationSpec:
    plain: dict[str, Any] = {
        "name": "proposed-4",
        "seed": SEED,
        "scored_on": ["continuation", "completion"],
        "new_tokens": 6,
        "batch_size": 4,
        "samples_kept": 2,
        "documents": None,
        "windows": 7,
        "calibration_windows": 5,
        "prompt_tokens": PROMPT,
        "intervention_sets": ["completion"],
        "ranking_window": 5,
        "interventions": [parsed(each) for each in written or []],
    }
    return EvaluationSpec(**plain | changes)


class Scored(NamedTuple):
    table: pd.DataFrame
    samples: list[dict[str, Any]]
    described: dict[str, Any]

    def part(self, intervention: str = "", form: str = "trained") -> pd.DataFrame:
        """The rows of an intervention and form, without these columns."""
        chosen = self.table.query("intervention == @intervention and form == @form")
        return chosen.drop(columns=["intervention", "form"]).reset_index(drop=True)


def make_place(folder: Path, corpus: Path) -> Path:
    """A folder with a run, its corpus, tokens and tokenizer."""
    write_run(folder / "run", run_spec("proposed-4", CONFIG, SEED), sharper=60)
    write_corpus(folder, corpus / "tokenizer.model")
    (folder / "tokenizer.model").symlink_to(corpus / "tokenizer.model")
    return folder


def score(
    place: Path, asked: EvaluationSpec, output: Path, run: Path | None = None
) -> Scored:
    files = [output / f"out.{kind}" for kind in ("parquet", "jsonl", "json")]
    tokenizer = Tokenizer(place / "tokenizer.model")
    texts = Texts(asked, place / "corpus", place / "tokens", tokenizer)
    evaluate(texts, run or place / "run", *files, device="cpu")
    lines = files[1].read_text().splitlines()
    table = pd.read_parquet(files[0])
    return Scored(table, [json.loads(line) for line in lines], read_json(files[2]))
