"""Commands for people, in the groups that `--help` shows them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from shallower.commands.options import (
    Config,
    Device,
    File,
    Overlays,
    Overrides,
    Results,
    RunFolder,
    StudyFolder,
    Threads,
)
from shallower.cores import usable_cores
from shallower.errors import UserError

START, LOOK, USE = "Begin", "Look", "Check and use"
DEFAULT_STUDY = Path("results/default")
app = typer.Typer()

# Imports are inside functions: torch takes seconds to load; most commands need none.


@app.command(rich_help_panel=START)
def new(
    study: Annotated[str, Argument(help="its name")],
    folder: Annotated[Path, Option(help="of the overlay")] = Path("config"),
) -> None:
    """Write a short overlay: the beginning of a study of your own."""
    from shallower.commands.new import write_overlay

    path = write_overlay(study, folder)
    print(f"{path}: edit it, then `make paper CONFIG={path}`")


@app.command(rich_help_panel=START)
def plan(
    overrides: Overrides = None,
    config: Config = Path("config.yaml"),
    configfile: Overlays = None,
    device: Annotated[str, Option(help="a GPU's name")] = "NVIDIA A100-SXM4-80GB",
    mfu: Annotated[float, Option(help="share of the peak that is reached")] = 0.4,
    peak_tflops: Annotated[float | None, Option(help="instead of the device's")] = None,
    runtime: Annotated[float | None, Option(help="minutes a job may take")] = None,
    as_json: Annotated[bool, Option("--json", help="for programs")] = False,
) -> None:
    """Print what a study takes before it runs: jobs, hours, disk, memory."""
    for option, value in (("--mfu", mfu), ("--peak-tflops", peak_tflops)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{option}: found {value}, expected a number above 0")
    if mfu > 1:
        raise UserError(f"--mfu: found {mfu}, expected a share of the peak, as 0.4")
    if runtime is not None and not 0 < runtime < float("inf"):
        raise UserError(f"--runtime: found {runtime}, expected minutes above 0")
    from shallower.study.configuration import configured
    from shallower.study.plan import Assumptions, plan_study, plan_values
    from shallower.study.plan_text import render
    from shallower.study.study import load_study
    from shallower.terminal.minutes import Minutes, read_speeds
    from shallower.terminal.screen import duration

    study = load_study(configured(config, configfile or [], overrides or []))
    assumed = Assumptions(device, mfu, peak_tflops, runtime)
    planned = plan_study(study, assumed, Path("results") / study.study)
    if as_json:
        print(json.dumps(plan_values(planned), indent=2))
        return
    cores = usable_cores()
    here = duration(Minutes(study, read_speeds()).all(planned.jobs, cores))
    print(render(planned))
    print(f"Here     about {here} for all of it on this machine, with {cores} cores")


@app.command(rich_help_panel=START)
def train(
    model: Annotated[str, Option(help="<variant>-<depth>, also silu-5__lr=1e-3")],
    overrides: Overrides = None,
    seed: Annotated[int, Option(min=0)] = 0,
    config: Config = Path("config.yaml"),
    configfile: Overlays = None,
    study: Annotated[str, Option(help="folder in results/")] = "quick",
    threads: Annotated[int | None, Option(min=1, help="all, unless given")] = None,
    device: Device = "auto",
) -> None:
    """Train one model without Snakemake, and print its test loss."""
    from shallower.commands.quick import Quick, named
    from shallower.commands.terminal import make_console
    from shallower.study.configuration import configured
    from shallower.study.study import load_study

    values = configured(config, configfile or [], overrides or [])
    chosen = load_study(values | {"study": study})
    count = threads or usable_cores()
    console = make_console()
    Quick(chosen, named(model, chosen), seed, count, device, console).make()


@app.command(rich_help_panel=LOOK)
def status(
    overrides: Overrides = None,
    config: Config = Path("config.yaml"),
    configfile: Overlays = None,
) -> None:
    """Show how far a study is: done, running, stale and why, time left."""
    from shallower.commands import status
    from shallower.commands.terminal import make_console
    from shallower.study.configuration import configured
    from shallower.study.study import load_study

    study = load_study(configured(config, configfile or [], overrides or []))
    status.show(study, make_console())


@app.command(rich_help_panel=LOOK)
def claims(
    only: Annotated[list[str] | None, Argument(help="verdicts or ids: C7")] = None,
    results: StudyFolder = DEFAULT_STUDY,
    notes: Annotated[bool, Option("--notes", help="why, below each claim")] = False,
) -> None:
    """Show the verdict on every claim, with effect and interval."""
    from shallower.commands import claims
    from shallower.commands.places import study_folder
    from shallower.commands.terminal import make_console

    rows = claims.read_claims(study_folder(results))
    claims.show(rows, make_console(), only, notes)


@app.command(rich_help_panel=LOOK)
def compare(
    left: Annotated[str, Argument(help="proposed-5, proposed-5/seed0 or a folder")],
    right: Annotated[str, Argument(help="the same of another run")],
    results: StudyFolder = DEFAULT_STUDY,
    everything: Annotated[bool, Option("--all", help="every metric")] = False,
) -> None:
    """Show two models or runs side by side, with differences."""
    from shallower.commands import compare
    from shallower.commands.terminal import make_console

    compare.show(left, right, results, everything, make_console())


@app.command(rich_help_panel=LOOK)
def sample(
    run: Annotated[str, Argument(help="proposed-5, proposed-5/seed0 or a folder")],
    prompt: Annotated[str, Argument(help="text that the model continues")],
    results: StudyFolder = DEFAULT_STUDY,
    tokens: Annotated[int, Option(min=1, help="new ones, at most")] = 40,
    temperature: Annotated[float, Option(min=0, help="0: the likeliest token")] = 0.0,
    seed: Annotated[int, Option(help="of what is drawn")] = 0,
    device: Device = "cpu",
) -> None:
    """Let a trained model continue a text."""
    from shallower.commands.places import run_place
    from shallower.commands.sample import sample

    place = run_place(run, results)
    pieces = place.study / "tokens" / "tokenizer.model"
    folder = place.folder(place.seeds[0])
    print(sample(folder, pieces, prompt, tokens, temperature, seed, device))


@app.command(rich_help_panel=LOOK)
def table_1() -> None:
    """Print the paper's Table 1, counted on the models' own tensors."""
    from shallower.evaluation.sizes import original_sizes, table_1
    from shallower.study.schema import Original
    from shallower.study.stages import plain_original

    print(table_1(original_sizes(plain_original(Original()))))


@app.command(rich_help_panel=USE)
def verify(results: Results, threads: Threads = 1) -> None:
    """Make all tables and figures again; fails if one differs."""
    from shallower.reporting.provenance import verify

    problems = verify(results, threads)
    if problems:
        raise UserError("\n".join([f"{len(problems)} problems", *problems]))
    print(f"{results}: verified")


@app.command("verify-archive", rich_help_panel=USE)
def verify_archive(archive: Annotated[Path, Argument(help="file, or folder")]) -> None:
    """Make the paper of an archive again, and compare; trains nothing."""
    from shallower.reporting.archive import verify_archive

    if problems := verify_archive(archive):
        raise UserError("\n".join([f"{len(problems)} problems", *problems]))
    print(f"{archive}: complete; its tables, figures, numbers and paper made again")


@app.command(rich_help_panel=USE)
def export(
    run: RunFolder,
    tokenizer: File,
    output: File,
    form: Annotated[
        str, Option(help="trained, folded, collapsed or deployed")
    ] = "deployed",
    licence: Annotated[str | None, Option(help="of the training text")] = None,
) -> None:
    """Write a run's model as a folder for Hugging Face's transformers."""
    from shallower.export.folder import Export
    from shallower.export.folder import export as write

    write(Export(run, tokenizer, form, output, licence))


@app.command(rich_help_panel=USE)
def publish(
    results: Results,
    output: Annotated[
        Path | None, Option(help="docs/<study>-run, unless given")
    ] = None,
    readme: File = Path("README.md"),
    protocol: File = Path("docs/protocol.md"),
) -> None:
    """Keep a study's paper and small tables in docs/<study>-run."""
    from shallower.reporting.published import publish

    folder = output or protocol.parent / f"{results.name}-run"
    publish(results, folder, readme, protocol)
