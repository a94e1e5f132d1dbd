"""How far a study is: what is done, running, stale and why, and the time left.

It reads files alone and writes nothing: the study's outputs, what Snakemake recorded of
them, and the settings and code that they were made with. `snakemake -n` is slower and
knows more: it lists every job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shallower import running
from shallower.commands.terminal import say
from shallower.cores import usable_cores
from shallower.study.inputs import Inputs
from shallower.study.records import Record, started
from shallower.study.study import Study
from shallower.terminal.minutes import SHARED, Minutes, read_speeds
from shallower.terminal.screen import duration
from shallower.terminal.state import stage_of
from shallower.training.live import last_line

SPLITS = ("train", "validation", "test")
TABLES = {  # further outputs
    "summary": ("by_seed.csv", "sessions.csv", "runs.json"),
    "estimates": ("estimates.csv", "pareto.csv", "facts.csv", "gates.csv"),
}
REASONS, MODELS = 8, 3  # shown


@dataclass
class Product:
    """The main output of one job."""

    rule: str
    path: Path
    run: tuple[str, int] | None = None
    state: str = "missing"  # or done, running, stale
    reasons: list[str] = field(default_factory=list)
    seconds: float | None = None  # that it took

    @property
    def stage(self) -> str:
        """The stage of its rule."""
        return stage_of(self.rule)

    @property
    def label(self) -> str:
        """`train proposed-5 seed 0`."""
        return (
            f"{self.rule} {self.run[0]} seed {self.run[1]}" if self.run else self.rule
        )

    @property
    def wildcards(self) -> dict[str, str]:
        """Of its job."""
        return {"model": self.run[0], "seed": str(self.run[1])} if self.run else {}


def products(study: Study) -> Iterator[Product]:
    """The main outputs of a study's jobs, in the order of the pipeline."""
    results = Inputs(study).directory
    yield Product("corpus", results / "corpus/manifest.json")
    if study.experiments.t5:
        yield Product("pairs", results / "corpus/pairs/manifest.json")
    yield Product("tokenizer", results / "tokens/tokenizer.model")
    for split in SPLITS:
        yield Product("shards", results / f"tokens/text/{split}/manifest.json")
    for model, seed in study.runs:
        path, run = Path(model, f"seed{seed}"), (model, seed)
        weights = results / "runs" / path / "model.safetensors"
        yield Product("train", weights, run)
    for model, seed in study.runs:
        path, run = Path(model, f"seed{seed}.parquet"), (model, seed)
        yield Product("evaluate", results / "evaluations" / path, run)
    for checkpoint, seed in study.scored:
        path = results / "evaluations" / checkpoint / f"seed{seed}.parquet"
        yield Product("pretrained", path, (checkpoint, seed))
    for rule, name in (
        ("floors", "floors.csv"),
        ("parameters", "parameters.csv"),
        ("latency", "latency.parquet"),
        ("summary", "summary.csv"),
        ("estimates", "claims.csv"),
        ("tables", "numbers.tex"),
        ("typeset", "paper.pdf"),
        ("provenance", "provenance.json"),
    ):
        yield Product(rule, results / name)


def examined(study: Study) -> list[Product]:
    """The products with their states.

    What is made of something stale is stale too, and has no reason of its own.
    """
    inputs = Inputs(study)
    pending = {str(path): words for path, words in inputs.pending().items()}
    found = list(products(study))
    is_made = running.started(inputs.directory) is not None
    gone: set[str] = set()  # outputs that will be made (again)
    for product in found:
        record = Record.read(product.path)
        product.seconds = record.seconds if record else None
        if started(product.path):
            product.state = "running" if is_made else "missing"
        elif product.path.exists():
            product.state = "done"
            _find_reasons(product, record, pending, gone)
        if product.state != "done":
            gone |= _beside(product)
    return found


def _find_reasons(
    product: Product,
    record: Record | None,
    pending: dict[str, list[str]],
    gone: set[str],
) -> None:
    inputs = record.inputs if record else []
    reasons = [word for name in inputs for word in pending.get(name, [])]
    newer = record.newer(product.path) if record else []
    reasons += [f"{name} is newer" for name in newer if name not in gone]
    if reasons or gone & set(inputs):
        product.state, product.reasons = "stale", reasons


def _beside(product: Product) -> set[str]:
    """The outputs of a product's job that other jobs may have as inputs."""
    path, folder = product.path, product.path.parent
    if product.rule in ("evaluate", "pretrained"):
        return {str(path), str(path.with_suffix(".interventions.json"))}
    if product.rule == "train":
        return {str(path), *(str(folder / n) for n in ("losses.csv", "training.json"))}
    if product.rule == "corpus":
        sets = [*folder.glob("*/*.parquet"), path]
        return {str(each) for each in sets if each.parent.name != "pairs"}
    if product.rule in TABLES:
        return {str(path), *(str(folder / name) for name in TABLES[product.rule])}
    return {str(path)}


# --- what is shown --------------------------------------------------------------------


def show(study: Study, console: Console) -> None:
    """Print how far the study is."""
    found = examined(study)
    results = Inputs(study).directory
    done = sum(product.state == "done" for product in found)
    say(console, f"study {study.study!r}: {done} of {len(found)} done, in {results}")
    console.print(_table(found))
    for product in found:
        if product.state == "running":
            say(console, f"running: {product.label}{_step(product)}")
    for line in _stale(found):
        say(console, line, "yellow")
    if done == len(found):
        say(console, f"nothing to do; the paper is {results / 'paper.pdf'}", "green")
    else:
        left = seconds_left(study, found, usable_cores())
        say(console, f"time left: about {duration(left)} on this machine")


def _table(found: list[Product]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("stage")
    states = ("done", "running", "stale", "missing")
    for name in states:
        table.add_column(name, justify="right")
    for stage in dict.fromkeys(product.stage for product in found):
        here = [product.state for product in found if product.stage == stage]
        cells = [str(here.count(state) or "") for state in states]
        style = "dim" if here.count("done") == len(here) else ""
        table.add_row(*(Text(cell, style=style) for cell in (stage, *cells)))
    return table


def _step(product: Product) -> str:
    """Where a run in training is, by its live losses."""
    line = last_line(product.path.parent)
    if product.rule != "train" or line is None:
        return ""
    return f", step {line['step']} of {line['steps']}, loss {line['loss']:.3f}"


def _stale(found: list[Product]) -> Iterator[str]:
    """A line for each reason with the jobs it concerns."""
    by_reason: dict[str, list[Product]] = {}
    for product in found:
        for reason in product.reasons:
            by_reason.setdefault(reason, []).append(product)
    for reason, jobs in list(by_reason.items())[:REASONS]:
        rules = ", ".join(dict.fromkeys(job.rule for job in jobs))
        models = list(dict.fromkeys(job.run[0] for job in jobs if job.run))
        more = f" and {len(models) - MODELS} more" if len(models) > MODELS else ""
        of = f" ({', '.join(models[:MODELS])}{more})" if models else ""
        yield f"stale: {rules}{of}: {reason}"
    if len(by_reason) > REASONS:
        yield f"and {len(by_reason) - REASONS} more reasons; snakemake -n has all"


def seconds_left(study: Study, found: Iterable[Product], cores: int) -> float:
    """Seconds that what is not done will take on so many cores.

    By the means of each rule's jobs that are done, or by what `Minutes` expects.
    Training and scoring of runs use all cores.
    """
    found, expected = list(found), Minutes(study, read_speeds())
    total = 0.0
    for rule in dict.fromkeys(product.rule for product in found):
        jobs = [product for product in found if product.rule == rule]
        todo = [product for product in jobs if product.state != "done"]
        took = [product.seconds for product in jobs if product.seconds is not None]
        each = [mean(took) if took else expected.job(rule, p.wildcards) for p in todo]
        total += sum(each) / (min(cores, len(todo)) if rule in SHARED and todo else 1)
    return total
