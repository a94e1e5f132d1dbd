"""One model from text to test loss, without Snakemake: a quick start.

The same stages with the same settings as in a study, in the same layout of files, so
that the other commands read them. Text and tokens are kept for the next model.
"""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError
from rich.console import Console

from shallower.commands.terminal import say
from shallower.corpus.build import build
from shallower.errors import UserError
from shallower.evaluation.evaluate import Texts, evaluate
from shallower.files import read_json, write_json, write_text
from shallower.running import StudyLock
from shallower.study.expand import of_grid, resolve
from shallower.study.experiments import Grid
from shallower.study.explain import explain, suggestion
from shallower.study.inputs import Inputs
from shallower.study.local_files import described, local_files
from shallower.study.names import ModelName
from shallower.study.runs import RunSpec, YamlDumper
from shallower.study.stages import evaluation_spec
from shallower.study.study import Study
from shallower.tokens.shards import write_manifest, write_shard
from shallower.tokens.source import obtain
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.live import LiveLosses
from shallower.training.loop import train
from shallower.training.progress import Progress
from shallower.training.tasks import Sources

# Options of a label that need no other run.
ALONE = {
    *("ffn", "ratio", "where", "heads", "head_size", "lr", "steps", "warmup", "width"),
    *("init_std", "output_init"),
}
SPLITS = ("train", "validation", "test")


def named(text: str, study: Study) -> ModelName:
    """A label as a model: `proposed-5`, `silu-5__lr=1e-3`.

    Raises UserError for what is no label, or needs another run (a teacher, a parent).
    """
    first, *more = text.split("__")
    form = re.fullmatch(r"([a-z0-9_]+)-(\d+)", first)
    options = dict(part.split("=", 1) for part in more if "=" in part)
    if form is None or len(options) < len(more):
        raise UserError(
            f"--model: found {text!r}, expected <variant>-<depth>, as proposed-5, and "
            "options, as silu-5__lr=1e-3"
        )
    for key in options:
        if key not in ALONE:
            raise UserError(
                f"--model: {key} cannot be trained alone{suggestion(key, [*ALONE])}; "
                "put it into a study"
            )
    values = {key: [yaml.safe_load(value)] for key, value in options.items()}
    # 1e-3 is a word in YAML 1.1.
    values = {key: [_number(each) for each in found] for key, found in values.items()}
    try:
        grid = Grid(variants=[form[1]], depths=[int(form[2])], options=values)
    except ValidationError as error:
        raise UserError(f"--model: {explain(error, Grid)}") from None
    return next(of_grid(study, grid))


def _number(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@dataclass
class Quick:
    """One model of a study, trained and scored in `results/<study>`."""

    study: Study
    name: ModelName
    seed: int
    threads: int
    device: str
    console: Console

    def __post_init__(self) -> None:
        self.inputs = Inputs(self.study)
        self.results = self.inputs.directory
        self.run = self.results / "runs" / str(self.name) / f"seed{self.seed}"
        self.corpus, self.tokens = self.results / "corpus", self.results / "tokens/text"
        self.tokenizer = self.results / "tokens/tokenizer.model"

    def make(self) -> None:
        """Text, tokens, training and test loss: what is there and the same is kept.

        Raises UserError where Snakemake makes a study, whose text would be replaced.
        """
        if self.inputs.settings_file("corpus").exists():
            raise UserError(
                f"{self.results}: is of a study that Snakemake makes, and its text "
                "would be replaced; take another folder with --study"
            )
        lock = StudyLock(self.results)  # until the end
        if not lock.take():
            raise UserError(lock.refusal())
        write_text(self.inputs.study_file, self.study.model_dump_json(indent=1) + "\n")
        self._make_text()
        spec = resolve(self.study, self.name).model_copy(update={"seed": self.seed})
        if self._is_trained(spec):
            say(self.console, f"{self.run}: trained already", "dim")
        else:
            self._train(spec)
        loss = self._score()
        say(
            self.console,
            f"test cross-entropy {loss:.3f} nats per token, perplexity "
            f"{math.exp(loss):.1f}",
            "bold",
        )
        say(self.console, f"{self.run}: weights, losses.csv, live.jsonl, training.json")
        say(self.console, f'next: shallower sample {self.run} "The"')

    def _make_text(self) -> None:
        """Corpus, tokenizer and shards, unless they are there and the same."""
        study, stamp = self.study, self.results / "settings" / "quick.json"
        wanted = {
            "corpus": study.corpus.model_dump(mode="json"),
            "tokenizer": study.tokenizer.model_dump(mode="json"),
            "files": [
                described(paths)
                for stage, paths in local_files(study).items()
                if stage in ("corpus", "tokenizer")
            ],
        }
        if stamp.is_file() and read_json(stamp) == wanted:
            say(self.console, f"{self.corpus}: text and tokens are there", "dim")
            return
        stamp.unlink(missing_ok=True)
        say(self.console, "reading the text", "dim")
        build(study.corpus, self.corpus)
        say(self.console, "training the tokenizer, tokenizing", "dim")
        text = self.corpus / "text"
        obtain(study.tokenizer, None, text / "train.parquet", self.tokenizer)
        for split in SPLITS:
            shard = self.tokens / split / "shard-0.bin"
            pieces = Tokenizer(self.tokenizer)
            write_shard(text / f"{split}.parquet", pieces, 0, 1, shard)
            write_manifest([shard], self.tokenizer, shard.with_name("manifest.json"))
        write_json(stamp, wanted)

    def _is_trained(self, spec: RunSpec) -> bool:
        facts, weights = self.run / "training.json", self.run / "model.safetensors"
        if not (facts.is_file() and weights.is_file()):
            return False
        made = read_json(facts)
        same = made["made_with"]["spec"] == spec.model_dump(mode="json")
        return bool(same and weights.stat().st_mtime > self.tokenizer.stat().st_mtime)

    def _train(self, spec: RunSpec) -> None:
        values = spec.model_dump(mode="json")
        text = yaml.dump(values, Dumper=YamlDumper, sort_keys=False, allow_unicode=True)
        (self.run / "model.safetensors").unlink(missing_ok=True)
        write_text(self.run / "spec.yaml", text)
        steps = spec.training.steps
        progress = Progress(f"{spec.name} seed {spec.seed}", steps)
        live = LiveLosses(
            self.run, steps, spec.training.batch_size * spec.model.context
        )

        def report(step: int, loss: float, speed: float) -> None:
            progress.show(step, loss, speed)
            live.show(step, loss, speed)

        with ctrl_c_as_end():
            train(
                spec,
                Sources(self.tokens / "train"),
                self.run,
                self.results / "checkpoints" / str(self.name) / f"seed{self.seed}",
                threads=self.threads,
                device=self.device,
                report=report,
            )
        progress.close()

    def _score(self) -> float:
        """Cross-entropy of the test text (nats per token), which is also kept."""
        folder = self.results / "evaluations" / str(self.name)
        spec = evaluation_spec(self.study, str(self.name), self.seed)
        spec = spec.model_copy(update={"scored_on": ["text"], "interventions": []})
        texts = Texts(
            spec, self.corpus, self.tokens, Tokenizer(self.tokenizer), self.threads
        )
        table = folder / f"seed{self.seed}.parquet"
        samples = table.with_suffix(".samples.jsonl")
        chosen = table.with_suffix(".interventions.json")
        evaluate(texts, self.run, table, samples, chosen, self.device)
        rows = pd.read_parquet(table)
        rows = rows[(rows["metric"] == "cross_entropy") & (rows["form"] == "trained")]
        return float(np.average(rows["value"], weights=rows["weight"]))


@contextmanager
def ctrl_c_as_end() -> Iterator[None]:
    """Ctrl-C ends training after its step, with a checkpoint, as SIGTERM does."""
    former = signal.signal(
        signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
