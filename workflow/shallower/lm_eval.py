"""EleutherAI's lm-evaluation-harness on exported folders that it cannot read itself.

`python -m shallower.lm_eval <arguments of lm_eval>`: the harness in this process, with
our models registered. It is not among the project's dependencies.
"""

from __future__ import annotations

import importlib
import sys

from shallower.errors import UserError


def main() -> None:
    """Run the harness's own command line."""
    try:
        harness = importlib.import_module("lm_eval.__main__")
        importlib.import_module("shallower.models.exported")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed: pip install 'lm_eval[hf]' transformers"
        ) from None
    harness.cli_evaluate()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"shallower.lm_eval: {error}", file=sys.stderr)
        sys.exit(error.status)
