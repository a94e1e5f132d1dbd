"""The harness's command line with our models: `python -m shallower.lm_eval`.

With `--checkpoint` the model is a checkpoint or a trained run, with an intervention if
one is asked for; nothing is exported. Without it, everything is left to the harness, in
a process that can read exported folders.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from shallower.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Run the harness. Raises UserError if it is not installed, or for bad options."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options, others = parser().parse_known_args(arguments)
    try:
        harness = importlib.import_module("lm_eval.__main__")
        if options.checkpoint is None:
            importlib.import_module("shallower.models.exported")
        else:
            importlib.import_module("shallower.lm_eval.model")
            arguments = [*others, *for_the_harness(options)]
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed: pip install -e '.[lm-eval]'"
        ) from None
    sys.argv = ["lm_eval", *arguments]
    harness.cli_evaluate()


def parser() -> argparse.ArgumentParser:
    """Our options; a value of None is not given to the model."""
    ours = argparse.ArgumentParser(
        prog="python -m shallower.lm_eval",
        description="Score a checkpoint, and interventions on it, with the harness.",
        epilog="All other options are the harness's own, as --tasks, --limit, "
        "--num_fewshot, --include_path and --output_path: `lm_eval run --help` lists "
        "them. Without --checkpoint all of them are, as for an exported folder.",
        allow_abbrev=False,
    )
    add = ours.add_argument
    add("--checkpoint", help="Hugging Face folder, GGUF file, or folder of a run")
    add("--intervention", help="skip=attention.last.4__eliminate=acc.1.5, or a part")
    add("--precision", choices=("auto", "float32", "bfloat16"))
    add("--calibration", help="text that the intervention is chosen by: a corpus' "
        "folder, as results/default/corpus, or a text file")  # fmt: skip
    add("--prompt_tokens", type=int, help="for which the speed-up is solved")
    add("--batch_size", "-b", type=int, default=8, help="sequences at once (8)")
    add("--device", default="auto", help="auto, cpu, cuda")
    return ours


def for_the_harness(options: argparse.Namespace) -> list[str]:
    """The harness's options that make our model, which it knows as `shallower`."""
    named = ("checkpoint", "intervention", "precision", "calibration", "prompt_tokens")
    given = {name: getattr(options, name) for name in named}
    values = {name: value for name, value in given.items() if value is not None}
    # As JSON: an intervention has the signs of equality that separate other arguments.
    model = ["--model", "shallower", "--model_args", json.dumps(values)]
    return [*model, "--batch_size", str(options.batch_size), "--device", options.device]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"shallower.lm_eval: {error}", file=sys.stderr)
        sys.exit(error.status)
