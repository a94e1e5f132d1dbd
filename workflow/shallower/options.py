"""The options of every command: what each takes, and what it says of itself.

A name that ends in `?` is that of an option which other commands require.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Adder = Callable[[argparse.ArgumentParser, str], None]
MACHINE = ("--threads", "--device")


def _option(**settings: Any) -> Adder:
    def add(parser: argparse.ArgumentParser, option: str) -> None:
        required = not option.endswith("?") and "default" not in settings
        parser.add_argument(option.rstrip("?"), required=required, **settings)

    return add


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None


PATHS = (
    *(
        "--output",
        "--text",
        "--tokenizer",
        "--tokens",
        "--corpus",
        "--folder",
        "--runs",
        "--evaluations",
    ),
    *(
        "--samples",
        "--checkpoints",
        "--step-time",
        "--bandwidth",
        "--results",
        "--readme",
        "--baselines",
        "--lock",
    ),
    "--output?",
)
JSONS = ("--settings", "--settings?", "--spec")
OPTIONS: dict[str, Adder] = {
    **{name: _option(type=Path) for name in PATHS},
    **{name: _option(type=_json, metavar="JSON") for name in JSONS},
    "--kind": _option(choices=["documents", "conversations", "answers", "pairs"]),
    "--key": _option(default="source", help="where the settings stand, for messages"),
    "--part": _option(type=int, help="counted from 0"),
    "--parts": _option(type=int),
    "--shards": _option(type=Path, nargs="+"),
    "--given": _option(type=Path, nargs="*", default=[], help="tokenizer to adopt"),
    "--config": _option(type=Path, default=Path("config.yaml")),
    "--configfile": _option(type=Path, nargs="+", default=[], help="as of snakemake"),
    "--mfu": _option(type=float, default=0.4, help="share of the peak; 0.4"),
    "--device?": _option(default="NVIDIA A100-SXM4-80GB", help="a GPU's name"),
    "--peak-tflops?": _option(type=float, help="instead of the device's own"),
    "--runtime?": _option(type=float, help="minutes a job may take"),
    "--json": _option(action="store_true", default=False, help="for programs"),
    "--parent": _option(
        type=Path, default=None, help="folder of the run to go on from"
    ),
    "--teacher": _option(
        type=Path, default=None, help="folder of the run whose logits are learnt"
    ),
    "--pairs": _option(type=Path, default=None, help="training pairs, for that task"),
    "--tokenizer?": _option(type=Path, help="of the pairs"),
    "--form": _option(choices=["trained", "folded", "collapsed", "deployed"]),
    "--licence?": _option(help="of the text it was trained on, for the model card"),
    "--sets": _option(nargs="+"),
    "--threads": _option(type=int, default=1),
    "--device": _option(default="auto", help="auto, cpu, cuda"),
    "--processes": _option(type=int, default=1, help="of this run, on this machine"),
    "--parallel": _option(
        default="data",
        choices=["data", "tensor"],
        help="what several processes share out: batches, or heads and FFN units",
    ),
    "--time-limit": _option(
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="save and stop, with status 75, before so many have passed; 0: never",
    ),
}
