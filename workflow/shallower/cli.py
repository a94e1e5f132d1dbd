"""The command line: one command a stage. An option is a parameter of a function.

The workflow's rules call these commands, and a person can repeat a step by copying what
Snakemake prints. Settings are in files that Snakemake's start writes (`study.inputs`);
paths and machine resources are options.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from shallower import running
from shallower.errors import UserError

PEOPLE, STAGES = "For people", "Stages, called by the workflow's rules"
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Shallower: from data to a paper with a verdict on every claim.",
)

Threads = Annotated[int, Option(min=1, help="of this process")]
Device = Annotated[str, Option(help="auto, cpu, cuda")]
Results = Annotated[Path, Option(help="folder of a study, results/<study>")]
File = Annotated[Path, Option(show_default=True)]
Files = Annotated[list[Path], Option()]
Text = Annotated[str, Option()]
Count = Annotated[int, Option(min=1)]
RunFolder = Annotated[Path, Option(help="folder of a run, with its spec.yaml")]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; a user's error is one line on standard error and status 2.

    Training that stopped before its time limit has a status of its own, 75.
    """
    # An import makes a hundred thousand objects that stay: looking through them for
    # garbage again and again takes a tenth of the time to load torch.
    gc.set_threshold(100_000, 20, 20)
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    command = arguments[0] if arguments else ""
    if not command.startswith("download"):
        # Compute nodes have no internet, and nothing may depend on having it. The
        # libraries read this when they are imported, which is not yet.
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    try:
        from shallower.trusted import check_stage

        check_stage(arguments)
        app(arguments, prog_name="shallower")
    except SystemExit as done:
        if done.code:
            raise
    except (UserError, OSError) as error:
        if debug:
            raise
        print(f"shallower {command}: {error}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, UserError) else 2)
    except (MemoryError, RuntimeError) as error:
        where = out_of_memory(error)
        if debug or where is None:
            raise
        print(
            f"shallower {command}: not enough memory {where}; a smaller batch_size or "
            "context, or another machine, would do",
            file=sys.stderr,
        )
        sys.exit(2)


def out_of_memory(error: BaseException) -> str | None:
    """Which memory an error is about, None if about none. Without importing torch."""
    if type(error).__name__ == "OutOfMemoryError":  # of torch
        return "on the GPU"
    text = str(error)
    ours = isinstance(error, MemoryError) or "DefaultCPUAllocator" in text
    return "on this machine" if ours or "Cannot allocate memory" in text else None


@app.callback()
def _options(
    debug: Annotated[bool, Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Handled by `main`; declared here so that --help shows it."""


# --- for people -----------------------------------------------------------------------
# Imports are inside functions: torch takes seconds to load; most commands need none.


@app.command(rich_help_panel=PEOPLE)
def plan(
    config: File = Path("config.yaml"),
    configfile: Annotated[list[Path] | None, Option(help="overlays")] = None,
    device: Annotated[str, Option(help="a GPU's name")] = "NVIDIA A100-SXM4-80GB",
    mfu: Annotated[float, Option(help="share of the peak that is reached")] = 0.4,
    peak_tflops: Annotated[float | None, Option(help="instead of the device's")] = None,
    runtime: Annotated[float | None, Option(help="minutes a job may take")] = None,
    as_json: Annotated[bool, Option("--json", help="for programs")] = False,
) -> None:
    """Print what a study takes before it runs: jobs, FLOPs, hours, disk, memory."""
    for option, value in (("--mfu", mfu), ("--peak-tflops", peak_tflops)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{option}: found {value}, expected a number above 0")
    if mfu > 1:
        raise UserError(f"--mfu: found {mfu}, expected a share of the peak, as 0.4")
    if runtime is not None and not 0 < runtime < float("inf"):
        raise UserError(f"--runtime: found {runtime}, expected minutes above 0")
    from shallower.study.plan import Assumptions, merge, plan_study, plan_values
    from shallower.study.plan_text import render
    from shallower.study.study import load_study

    study = load_study(merge(config, configfile or []))
    assumed = Assumptions(device, mfu, peak_tflops, runtime)
    planned = plan_study(study, assumed, Path("results") / study.study)
    print(json.dumps(plan_values(planned), indent=2) if as_json else render(planned))


@app.command(rich_help_panel=PEOPLE)
def export(
    run: RunFolder,
    tokenizer: File,
    output: File,
    form: Annotated[
        str, Option(help="trained, folded, collapsed or deployed")
    ] = "deployed",
    licence: Annotated[str | None, Option(help="of the training text")] = None,
) -> None:
    """Write a run's model as a folder that Hugging Face's transformers loads."""
    from shallower.export.folder import Export
    from shallower.export.folder import export as write

    write(Export(run, tokenizer, form, output, licence))


@app.command(rich_help_panel=PEOPLE)
def publish(
    results: Results,
    output: File = Path("docs/reference-run"),
    readme: File = Path("README.md"),
    protocol: File = Path("docs/protocol.md"),
) -> None:
    """Keep a study's paper and small tables, and put its verdicts into our pages."""
    from shallower.reporting.reference import publish

    publish(results, output, readme, protocol)


@app.command(rich_help_panel=PEOPLE)
def table_1() -> None:
    """Print the paper's Table 1, counted on the models' own tensors."""
    from shallower.evaluation.sizes import original_sizes, table_1
    from shallower.study.schema import Original
    from shallower.study.stages import plain_original

    print(table_1(original_sizes(plain_original(Original()))))


@app.command(rich_help_panel=PEOPLE)
def verify(results: Results, threads: Threads = 1) -> None:
    """Make everything again from a study's results and compare; fails if it differs."""
    from shallower.reporting.provenance import verify

    problems = verify(results, threads)
    if problems:
        raise UserError("\n".join([f"{len(problems)} problems", *problems]))
    print(f"{results}: verified")


# --- stages ---------------------------------------------------------------------------


@app.command(rich_help_panel=STAGES)
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


@app.command(rich_help_panel=STAGES)
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


@app.command(rich_help_panel=STAGES)
def corpus(settings: File, output: File) -> None:
    """Read the sources, split and clean them, and build the evaluation sets."""
    from shallower.corpus.build import build
    from shallower.corpus.settings import Corpus
    from shallower.study.runs import read_spec

    build(read_spec(Corpus, settings), output)


@app.command(rich_help_panel=STAGES)
def pairs(settings: File, corpus: File, output: File, baselines: File) -> None:
    """Make the pairs of sentences, and score the rules that models must beat."""
    from shallower.corpus.pairs import build
    from shallower.corpus.settings import Pairs
    from shallower.evaluation.pairs import write_baselines
    from shallower.study.runs import read_spec

    chosen = read_spec(Pairs, settings)
    build(chosen, corpus, output)
    write_baselines(output, chosen.data.labels, baselines)


@app.command(rich_help_panel=STAGES)
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


@app.command(rich_help_panel=STAGES)
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


@app.command(rich_help_panel=STAGES)
def manifest(tokenizer: File, shards: Files, output: File) -> None:
    """Describe a split's finished shards, with checksums."""
    from shallower.tokens.shards import warning, write_manifest

    lost = warning(write_manifest(shards, tokenizer, output))
    if lost:
        print(f"shallower manifest: {lost}", file=sys.stderr)


@app.command(rich_help_panel=STAGES)
def train(
    run: RunFolder,
    tokens: File,
    checkpoints: File,
    code: Annotated[Path | None, Option(help="digests of the code, JSON")] = None,
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
    from shallower.training.loop import train
    from shallower.training.progress import Progress
    from shallower.training.runs import read_spec
    from shallower.training.tasks import Sources, steps_of

    spec = read_spec(run)
    with process_group(parallel, device) as group:
        progress = Progress(f"{spec.name} seed {spec.seed}", steps_of(spec))
        train(
            spec,
            Sources(tokens, pairs, tokenizer, parent, teacher),
            run,
            checkpoints,
            threads=threads,
            device=device,
            report=progress.show if group.rank == 0 else None,
            time_limit=60 * time_limit or None,
            group=group,
            code=read_json(code) if code else None,
        )
        progress.close()


@app.command(rich_help_panel=STAGES)
def evaluate(
    settings: File,
    run: RunFolder,
    corpus: File,
    tokens: File,
    tokenizer: File,
    output: File,
    samples: File,
    interventions: File,
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


@app.command(rich_help_panel=STAGES)
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


@app.command(rich_help_panel=STAGES)
def floors(settings: File, tokens: File, corpus: File, output: File) -> None:
    """Score n-grams of the models' training tokens as models are scored."""
    from shallower.evaluation.floors import write_floors
    from shallower.study.runs import FloorsSpec, read_spec

    write_floors(read_spec(FloorsSpec, settings), tokens, corpus, output)


@app.command(rich_help_panel=STAGES)
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
    from shallower.evaluation.latency.job import Job, measure
    from shallower.study.runs import LatencySpec, read_spec

    spec = read_spec(LatencySpec, settings)
    job = Job(spec, runs, evaluations, corpus, tokenizer, threads, device)
    measure(job, output, step_time, bandwidth)


@app.command(rich_help_panel=STAGES)
def parameters(settings: File, output: File, predictions: File) -> None:
    """Count parameters and FLOPs on the meta device; predict speed-ups."""
    from shallower.evaluation.sizes import write_sizes
    from shallower.study.runs import SizesSpec, read_spec

    print(write_sizes(read_spec(SizesSpec, settings), output, predictions))


@app.command(rich_help_panel=STAGES)
def summary(results: Results) -> None:
    """Summarise raw results: one CSV a data set, and one of all."""
    from shallower.analysis.summaries import write_summaries

    write_summaries(results)


@app.command(rich_help_panel=STAGES)
def estimates(results: Results) -> None:
    """Estimate every difference and ratio, judge every claim, compare all methods."""
    from shallower.analysis.write import write_analysis

    write_analysis(results)


@app.command(rich_help_panel=STAGES)
def figures(results: Results, threads: Threads = 1) -> None:
    """Draw every figure from the tables and the training logs."""
    from shallower.reporting.figures import draw_all

    draw_all(results, threads)


@app.command(rich_help_panel=STAGES)
def tables(results: Results) -> None:
    """Write the paper's tables and numbers."""
    from shallower.reporting.tables import write_tables

    write_tables(results)


@app.command(rich_help_panel=STAGES)
def provenance(results: Results, threads: Threads = 1) -> None:
    """Make everything again and compare; then note versions and checksums."""
    from shallower.reporting.provenance import write_provenance

    write_provenance(results, threads)


@app.command(rich_help_panel=STAGES)
def copy(source: Files, output: Files) -> None:
    """Copy files to where they stay: each is there completely or not at all."""
    from shallower.files import copy

    for made, path in zip(source, output, strict=True):
        copy(made, path)
