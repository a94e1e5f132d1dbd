"""The command line: one subcommand a stage.

The workflow's rules call these commands, and a person can repeat one step by copying
what Snakemake prints. Settings arrive as JSON, the resolved part of the configuration
that the stage depends on; paths and machine resources as options.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from shallower.errors import UserError
from shallower.options import MACHINE, OPTIONS

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; a user's error is one line on standard error and status 2.

    Training that stopped before its time limit has a status of its own, 75.
    """
    # An import makes a hundred thousand objects that stay: looking through them for
    # garbage again and again takes a tenth of the time to load torch.
    gc.set_threshold(100_000, 20, 20)
    arguments = build_parser().parse_args(argv)
    if not arguments.command.startswith("download"):
        # Compute nodes have no internet, and nothing may depend on having it. The
        # libraries read this when they are imported, which is not yet.
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments.run(arguments)
    except (UserError, OSError) as error:
        if arguments.debug:
            raise
        print(f"shallower {arguments.command}: {error}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, UserError) else 2)


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(prog="shallower", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(run: Callable[[Arguments], None], *options: str) -> None:
        name = run.__name__.removeprefix("run_").replace("_", "-")
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        for option in options:
            OPTIONS[option](sub, option)

    command(run_download, "--settings", "--kind", "--key", "--lock", "--output")
    command(run_download_file, "--settings", "--lock", "--output")
    command(run_corpus, "--settings", "--output")
    command(run_pairs, "--settings", "--corpus", "--output", "--baselines")
    command(run_tokenizer, "--text", "--settings", "--given", "--output")
    command(run_shard, "--text", "--tokenizer", "--part", "--parts", "--output")
    command(run_manifest, "--tokenizer", "--output", "--shards")
    command(
        run_train,
        *("--spec", "--tokens", "--output", "--checkpoints", "--time-limit"),
        *("--processes", "--parallel", "--parent", "--teacher", "--pairs"),
        *("--tokenizer?", *MACHINE),
    )
    command(
        run_evaluate,
        *("--folder", "--corpus", "--tokens", "--tokenizer", "--settings"),
        *("--output", "--samples", *MACHINE),
    )
    command(
        run_arms,
        *("--folder", "--corpus", "--tokens", "--tokenizer", "--settings"),
        *("--output", *MACHINE),
    )
    command(
        run_export,
        *("--folder", "--tokenizer", "--form", "--licence?", "--output"),
    )
    command(
        run_latency,
        *("--settings", "--runs", "--corpus", "--tokenizer", "--evaluations"),
        *("--output", "--step-time", "--bandwidth", *MACHINE),
    )
    command(run_parameters, "--settings?", "--output?")
    command(run_summary, "--results", "--settings", "--sets")
    command(run_front, "--results", "--settings")
    command(run_claims, "--results", "--settings")
    command(run_figures, "--results", "--settings", "--threads")
    command(run_report, "--results", "--settings")
    command(run_provenance, "--results", "--settings")
    command(run_verify, "--results", "--settings", "--sets", "--threads")
    command(run_publish, "--results", "--output", "--readme")
    command(
        run_plan,
        *("--config", "--configfile", "--mfu", "--device?", "--peak-tflops?"),
        *("--runtime?", "--json"),
    )
    return parser


# --- commands ---------------------------------------------------------------------
# Imports stand inside: torch takes seconds to load, and most commands do without.


def run_download(a: Arguments) -> None:
    """Download a data set of the hub to a folder; continues where it stopped."""
    from shallower.corpus.hub import Job, download
    from shallower.corpus.settings import HubSource

    source = HubSource.model_validate(a.settings)
    download(Job(source, a.kind, a.key, a.lock, a.output))


def run_download_file(a: Arguments) -> None:
    """Download one file of a model's repository on the hub."""
    from shallower.corpus.hub import download_file

    s = a.settings
    download_file(s["repository"], s["file"], s.get("revision"), a.lock, a.output)


def run_corpus(a: Arguments) -> None:
    """Read the sources, split and clean them, and build the evaluation sets."""
    from shallower.corpus.build import build
    from shallower.corpus.settings import Corpus

    build(Corpus.model_validate(a.settings), a.output)


def run_pairs(a: Arguments) -> None:
    """Make the pairs of sentences, and score the rules that models must beat."""
    from shallower.corpus.pairs import build
    from shallower.corpus.settings import Pairs
    from shallower.evaluation.pair_baselines import write_baselines

    settings = Pairs.model_validate(a.settings)
    build(settings, a.corpus, a.output)
    write_baselines(a.output, settings.data.labels, a.baselines)


def run_tokenizer(a: Arguments) -> None:
    """Train the tokenizer on the training split, or adopt a given one."""
    from shallower.tokens.source import obtain

    obtain(a.settings, next(iter(a.given), None), a.text, a.output)


def run_shard(a: Arguments) -> None:
    """Tokenize one part of a split into one shard."""
    from shallower.tokens.shards import write_shard
    from shallower.tokens.tokenizer import Tokenizer

    write_shard(a.text, Tokenizer(a.tokenizer), a.part, a.parts, a.output)


def run_manifest(a: Arguments) -> None:
    """Describe a split's finished shards, with checksums."""
    from shallower.tokens.shards import warning, write_manifest

    lost = warning(write_manifest(a.shards, a.tokenizer, a.output))
    if lost:
        print(f"shallower manifest: {lost}", file=sys.stderr)


def run_train(a: Arguments) -> None:
    """Train one model with one seed; continues where a killed run stopped."""
    for key, value, least in (
        ("--time-limit", a.time_limit, 0),
        ("--processes", a.processes, 1),
    ):
        if not value >= least:
            raise UserError(f"{key}: {value}, expected {least} or more")
    from shallower.training.group import launch, launched, own_group

    if a.processes > 1 and not launched():
        return launch(a.processes, a.argv)
    from shallower.training.loop import train
    from shallower.training.progress import Progress
    from shallower.training.tasks import Sources

    label = f"{a.spec['name']} seed {a.spec['seed']}"
    with own_group(a.parallel, a.device) as group:
        progress = Progress(label, a.spec["training"]["steps"])
        train(
            a.spec,
            Sources(a.tokens, a.pairs, a.tokenizer, a.parent, a.teacher),
            *(a.output, a.checkpoints),
            threads=a.threads,
            device=a.device,
            report=progress.show if group.rank == 0 else None,
            time_limit=60 * a.time_limit or None,
            group=group,
        )
        progress.close()


def run_evaluate(a: Arguments) -> None:
    """Score one trained run on the test text and the evaluation sets."""
    from shallower.evaluation.evaluate import evaluate

    evaluate(
        *(a.folder, a.corpus, a.tokens, a.tokenizer, a.settings, a.output, a.samples),
        threads=a.threads,
        device=a.device,
    )


def run_arms(a: Arguments) -> None:
    """Choose and score what is skipped and eliminated in one run at inference."""
    from shallower.evaluation.arms import score_arms

    score_arms(
        *(a.folder, a.corpus, a.tokens, a.tokenizer, a.settings, a.output),
        threads=a.threads,
        device=a.device,
    )


def run_export(a: Arguments) -> None:
    """Write a run's model as a folder that Hugging Face's transformers reads."""
    from shallower.exporting.folder import Export, export

    export(Export(a.folder, a.tokenizer, a.form, a.output, a.licence))


def run_latency(a: Arguments) -> None:
    """Time all models, interleaved, in several processes; wants the machine alone."""
    from shallower.config import Study
    from shallower.evaluation.latency import Job, measure

    job = Job(
        **Study.model_validate(a.settings).timed,
        runs=str(a.runs),
        evaluations=str(a.evaluations),
        corpus=str(a.corpus),
        tokenizer=str(a.tokenizer),
        threads=a.threads,
        device=a.device,
    )
    measure(job, a.output, a.step_time, a.bandwidth)


def run_parameters(a: Arguments) -> None:
    """Count parameters and FLOPs on the meta device; prints the paper's Table 1."""
    from shallower.config import Study
    from shallower.evaluation.parameters import count, table_1
    from shallower.sections import PaperScale
    from shallower.wanted import paper_scale

    if a.settings:
        table = count(**Study.model_validate(a.settings).counted)
    else:
        table = count({}, paper_scale(PaperScale()))
    print(table_1(table))
    if a.output:
        from shallower.files import write_text

        write_text(a.output, table.to_csv(index=False))


def run_summary(a: Arguments) -> None:
    """Summarise raw results: one CSV a data set, and one of all."""
    from shallower.analysis.comparisons import write_comparisons
    from shallower.analysis.inventory import write_inventory
    from shallower.analysis.summary import raw_rows, write_summaries
    from shallower.config import Study

    wanted = Study.model_validate(a.settings).summarised
    rows, sessions = raw_rows(a.results, wanted["runs"], wanted["arms"])
    write_summaries(a.results, rows, sessions, a.sets)
    write_comparisons(a.results, rows, wanted["contrasts"], wanted["families"])
    write_inventory(a.results, wanted["runs"], wanted["arms"], wanted["arm_runs"])


def run_front(a: Arguments) -> None:
    """Set all methods side by side by quality and latency, and against depth."""
    from shallower.analysis.front import write_front
    from shallower.config import Study

    write_front(a.results, Study.model_validate(a.settings))


def run_claims(a: Arguments) -> None:
    """Judge every claim by the summaries; write search, budgets and roofline."""
    from shallower.analysis.budgets import write_budgets
    from shallower.analysis.claims import write_claims
    from shallower.analysis.roofline import write_roofline
    from shallower.analysis.search import write_search
    from shallower.config import Study

    study = Study.model_validate(a.settings)
    write_claims(a.results, study)
    write_search(a.results, study)
    write_budgets(a.results, study)
    write_roofline(a.results, study.sizes)


def run_figures(a: Arguments) -> None:
    """Draw every figure from the summaries and the training logs."""
    from shallower.reporting.figures import draw_all

    draw_all(a.results, a.settings, processes=a.threads)


def run_report(a: Arguments) -> None:
    """Write the paper's tables and numbers."""
    from shallower.reporting.numbers import write_numbers
    from shallower.reporting.tables import write_tables

    write_tables(a.results, a.settings)
    write_numbers(a.results, a.settings)


def run_provenance(a: Arguments) -> None:
    """Note what the study was made with, and the checksum of every result."""
    from shallower.reporting.provenance import write_provenance

    write_provenance(a.results, a.settings)


def run_verify(a: Arguments) -> None:
    """Make everything again from the results and compare; fails if it differs."""
    from shallower.reporting.provenance import verify

    problems = verify(a.results, a.settings, a.sets, a.threads)
    if problems:
        raise UserError("\n".join([f"{len(problems)} problems", *problems]))
    print(f"{a.results}: verified")


def run_publish(a: Arguments) -> None:
    """Keep a study's paper and small tables, and put its verdicts into a README."""
    from shallower.reporting.reference import publish

    publish(a.results, a.output, a.readme)


def run_plan(a: Arguments) -> None:
    """Print what a study takes before it runs: jobs, FLOPs, GPU hours, disk, memory."""
    from shallower.config import load_study
    from shallower.planning.merging import merge

    for option, value in (("--mfu", a.mfu), ("--peak-tflops", a.peak_tflops)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{option}: found {value}, expected a number above 0")
    if a.mfu > 1:
        raise UserError(f"--mfu: found {a.mfu}, expected a share of the peak, as 0.4")
    if a.runtime is not None and not 0 < a.runtime < float("inf"):
        raise UserError(f"--runtime: found {a.runtime}, expected minutes above 0")
    study = load_study(merge(a.config, a.configfile))

    from shallower.planning.estimate import Assumptions, as_json, plan
    from shallower.planning.text import render

    assumed = Assumptions(a.device, a.mfu, a.peak_tflops, a.runtime)
    planned = plan(study, assumed, Path("results") / study.study)
    print(json.dumps(as_json(planned), indent=2) if a.json else render(planned))
