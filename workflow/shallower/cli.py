"""The command line `shallower`: who calls it how, and how an error is said.

The commands are in `commands/people.py` and `commands/stages.py`; an option is a
parameter of a function.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer import Option

from shallower import __version__
from shallower.commands import people, stages
from shallower.cores import limit_threads
from shallower.errors import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Shallower: from data to a paper with a verdict on every claim.",
    epilog="`make paper` runs a whole study. Its rules call further commands: "
    "docs/architecture.md.",
)
app.add_typer(people.app)
app.add_typer(stages.app)


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
    limit_threads()
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


def _say_version(asked: bool) -> None:
    if asked:
        print(f"shallower {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, Option("--debug", help="show tracebacks")] = False,
    version: Annotated[
        bool,
        Option(
            "--version", help="show the version", callback=_say_version, is_eager=True
        ),
    ] = False,
) -> None:
    """`main` handles --debug; declared here so that --help shows it."""
