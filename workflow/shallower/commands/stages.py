"""Commands that the workflow's rules call, one a stage. `--help` does not list them.

A person can repeat a step by copying what Snakemake prints. Settings are in files that
Snakemake's start writes (`study.inputs`); paths and machine resources are options.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from shallower import running
from shallower.commands.options import (
    Code,
    Count,
    Device,
    File,
    Files,
    Results,
    RunFolder,
    Text,
    Threads,
)
from shallower.errors import UserError

app = typer.Typer()

# Imports are inside functions: torch takes seconds to load; most commands need none.


@app.command(hidden=True)
def download(name: Text, results: Results, lock: File, output: File) -> None:
    """Download a data set or a checkpoint of the hub; continues where it stopped."""
    from shallower.corpus.downloaded import hub_sources
    from shallower.corpus.hub import Job
    from shallower.corpus.hub import download as fetch
    from shallower.study.study import read_study

    study = read_study(results / "study.json")
    checkpoints = study.pretrained.downloads
    # Studies of one checkout share what they download.
    with running.alone(output.with_name(f".{output.name}.lock")):
        if name in checkpoints:
            from shallower.pretrained.download import download as fetch_checkpoint

            key, checkpoint = checkpoints[name]
            fetch_checkpoint(checkpoint, key, lock, output)
            return
        wanted = hub_sources(study.corpus)[name]
        fetch(Job(wanted.source, wanted.kind, wanted.key, lock, output))


@app.command(hidden=True)
def download_file(settings: File, lock: File, output: File) -> None:
    """Download one file of a model's repository on the hub."""
    from shallower.corpus.hub import download_file as fetch
    from shallower.study.runs import read_spec
    from shallower.study.schema import Tokenizer

    file = read_spec(Tokenizer, settings).hub
    if file is None:
        raise UserError(f"{settings}: no file of the hub")
    with running.alone(output.with_name(f".{output.name}.lock")):
        fetch(file.repository, file.file, file.revision, lock, output)


@app.command(hidden=True)
def corpus(settings: File, output: File) -> None:
    """Read the sources, split and clean them, and build the evaluation sets."""
    from shallower.corpus.build import build
    from shallower.corpus.settings import Corpus
    from shallower.study.runs import read_spec

    build(read_spec(Corpus, settings), output)


@app.command(hidden=True)
def pairs(settings: File, corpus: File, output: File, baselines: File) -> None:
    """Make the pairs of sentences, and score the rules that models must beat."""
    from shallower.corpus.pairs import build
    from shallower.corpus.settings import Pairs
    from shallower.evaluation.pairs import write_baselines
    from shallower.study.runs import read_spec

    chosen = read_spec(Pairs, settings)
    build(chosen, corpus, output)
    write_baselines(output, chosen.data.labels, baselines)


@app.command(hidden=True)
def tokenizer(
    settings: File,
    text: File,
    output: File,
    given: Annotated[Path | None, Option(help="tokenizer to adopt")] = None,
) -> None:
    """Train the tokenizer on the training split, or adopt a given one."""
    from shallower.study.runs import read_spec
    from shallower.study.schema import Tokenizer
    from shallower.tokens.source import obtain

    obtain(read_spec(Tokenizer, settings), given, text, output)


@app.command(hidden=True)
def shard(
    text: File,
    tokenizer: File,
    part: Annotated[int, Option(help="counted from 0")],
    parts: Count,
    output: File,
) -> None:
    """Tokenize one part of a split into one shard."""
    from shallower.tokens.shards import write_shard
    from shallower.tokens.tokenizer import Tokenizer

    write_shard(text, Tokenizer(tokenizer), part, parts, output)


@app.command(hidden=True)
def manifest(tokenizer: File, shards: Files, output: File) -> None:
    """Describe a split's finished shards, with checksums."""
    from shallower.tokens.shards import warning, write_manifest

    lost = warning(write_manifest(shards, tokenizer, output))
    if lost:
        print(f"shallower manifest: {lost}", file=sys.stderr)


@app.command(hidden=True)
def train_run(
    run: RunFolder,
    tokens: File,
    checkpoints: File,
    code: Code = None,
    parent: Annotated[Path | None, Option(help="folder of the run to continue")] = None,
    teacher: Annotated[Path | None, Option(help="folder of the teacher's run")] = None,
    pairs: Annotated[Path | None, Option(help="training pairs, for that task")] = None,
    tokenizer: Annotated[Path | None, Option(help="of the pairs")] = None,
    threads: Threads = 1,
    device: Device = "auto",
    processes: Annotated[int, Option(min=1, help="that train it together")] = 1,
    parallel: Annotated[
        str, Option(help="what they share: data (batches) or tensor (heads, FFN units)")
    ] = "data",
    time_limit: Annotated[
        float,
        Option(metavar="MINUTES", min=0, help="save and stop before it; 0: never"),
    ] = 0.0,
) -> None:
    """Train one model with one seed; continues where a killed run stopped."""
    from shallower.training.processes import launch, launched, process_group

    if processes > 1 and not launched():
        sys.exit(launch(processes, sys.argv[1:]))
    from shallower.files import read_json
    from shallower.training.live import LiveLosses
    from shallower.training.loop import train
    from shallower.training.progress import Progress
    from shallower.training.runs import read_spec
    from shallower.training.tasks import Sources, steps_of

    spec = read_spec(run)
    with process_group(parallel, device) as group:
        progress = Progress(f"{spec.name} seed {spec.seed}", steps_of(spec))
        step_tokens = spec.training.batch_size * spec.model.context
        live = LiveLosses(run, steps_of(spec), step_tokens)

        def report(step: int, loss: float, speed: float) -> None:
            progress.show(step, loss, speed)
            live.show(step, loss, speed)

        train(
            spec,
            Sources(tokens, pairs, tokenizer, parent, teacher),
            run,
            checkpoints,
            threads=threads,
            device=device,
            report=report if group.rank == 0 else None,
            time_limit=60 * time_limit or None,
            group=group,
            code=read_json(code) if code else None,
        )
        progress.close()


@app.command(hidden=True)
def evaluate(
    settings: File,
    run: RunFolder,
    corpus: File,
    tokens: File,
    tokenizer: File,
    output: File,
    samples: File,
    interventions: File,
    code: Code = None,  # has been compared with the modules: trusted.py
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Score one run, and every intervention on it, on text and evaluation sets."""
    from shallower.evaluation.evaluate import Texts, evaluate
    from shallower.study.runs import EvaluationSpec, read_spec
    from shallower.tokens.tokenizer import Tokenizer

    spec = read_spec(EvaluationSpec, settings)
    texts = Texts(spec, corpus, tokens, Tokenizer(tokenizer), threads)
    evaluate(texts, run, output, samples, interventions, device)


@app.command(hidden=True)
def pretrained(
    settings: File,
    corpus: File,
    output: File,
    interventions: File,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Score a pretrained checkpoint, and every intervention on it."""
    from shallower.evaluation.pretrained import evaluate
    from shallower.study.runs import PretrainedSpec, read_spec

    spec = read_spec(PretrainedSpec, settings)
    evaluate(spec, corpus, output, interventions, threads=threads, device=device)


@app.command(hidden=True)
def floors(settings: File, tokens: File, corpus: File, output: File) -> None:
    """Score n-grams of the models' training tokens as models are scored."""
    from shallower.evaluation.floors import write_floors
    from shallower.study.runs import FloorsSpec, read_spec

    write_floors(read_spec(FloorsSpec, settings), tokens, corpus, output)


@app.command(hidden=True)
def latency(
    settings: File,
    runs: File,
    evaluations: File,
    corpus: File,
    tokenizer: File,
    output: File,
    step_time: File,
    bandwidth: File,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Time all models, interleaved, in several processes; needs the machine alone."""
    from shallower.evaluation.latency.cases import Job
    from shallower.evaluation.latency.job import measure
    from shallower.study.runs import LatencySpec, read_spec

    spec = read_spec(LatencySpec, settings)
    job = Job(spec, runs, evaluations, corpus, tokenizer, threads, device)
    measure(job, output, step_time, bandwidth)


@app.command(hidden=True)
def parameters(settings: File, output: File, predictions: File) -> None:
    """Count parameters and FLOPs on the meta device; predict speed-ups."""
    from shallower.evaluation.sizes import write_sizes
    from shallower.study.runs import SizesSpec, read_spec

    print(write_sizes(read_spec(SizesSpec, settings), output, predictions))


@app.command(hidden=True)
def summary(results: Results) -> None:
    """Summarise raw results: one CSV a data set, and one of all."""
    from shallower.analysis.summaries import write_summaries

    write_summaries(results)


@app.command(hidden=True)
def estimates(results: Results) -> None:
    """Estimate every difference and ratio, judge every claim, compare all methods."""
    from shallower.analysis.write import write_analysis

    write_analysis(results)


@app.command(hidden=True)
def figures(results: Results, threads: Threads = 1) -> None:
    """Draw every figure from the tables and the training logs."""
    from shallower.reporting.figures import draw_all

    draw_all(results, threads)


@app.command(hidden=True)
def tables(results: Results) -> None:
    """Write the paper's tables and numbers."""
    from shallower.reporting.tables import write_tables

    write_tables(results)


@app.command(hidden=True)
def provenance(results: Results, threads: Threads = 1) -> None:
    """Make everything again and compare; then note versions and checksums."""
    from shallower.reporting.provenance import write_provenance

    write_provenance(results, threads)


@app.command(hidden=True)
def copy(source: Files, output: Files) -> None:
    """Copy files to where they stay: each is there completely or not at all."""
    from shallower.files import copy

    for made, path in zip(source, output, strict=True):
        copy(made, path)


@app.command(hidden=True)
def page(
    results: Results,
    notebooks: Annotated[list[Path] | None, Option(help="that were executed")] = None,
) -> None:
    """Write report.html: verdicts, figures and tables as one page for a browser."""
    from shallower.reporting.page import write_page

    write_page(results, Path("report"), notebooks or [])


@app.command(hidden=True)
def archive(results: Results) -> None:
    """Write code, configuration, result tables and paper of a study as one file."""
    from shallower.reporting.archive import write_archive

    written = write_archive(results)
    print(f"{written}: {written.stat().st_size / 2**20:.1f} MiB")


@app.command(hidden=True)
def rebuild(results: Results, threads: Threads = 2) -> None:
    """Make everything from raw rows to the PDF again, and compare."""
    from shallower.reporting.archive import rebuild

    if problems := rebuild(results, threads):
        raise UserError("\n".join(problems))
