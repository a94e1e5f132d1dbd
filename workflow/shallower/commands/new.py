"""`shallower new my-study`: a short overlay with comments, to begin a study with."""

from __future__ import annotations

import re
from pathlib import Path

from shallower.errors import UserError
from shallower.files import write_text

OVERLAY = """\
# Study {study}: what differs from config.yaml, which has every key with a comment.
#   shallower plan --configfile {path}    # what it takes
#   make paper CONFIG={path}              # results/{study}, report/paper.pdf
# This one takes minutes. Lines that begin with "#:" are examples: take "#: " away.
study: {study}

training:
  steps: 200                     # for minutes; claims about quality need more, as 1600
  # overrides: {{proposed-4: {{learning_rate: 1.0e-3}}}}     # for one model
pretrained: null                 # no pretrained checkpoint (SmolLM2) is scored

experiments:                     # a list of words or numbers is one grid
  seeds: [0, 1, 2]
  depth: [2, 4]                  # baseline and proposed, at two depths or more
  head: [silu]                   # other head variants, at the smallest depth
  ffn: []                        # none of the default study's
  # Claims about quality are not tested without these two: a search over learning rates,
  # and a model that must be worse.
  learning_rate: [1.0e-3, 4.0e-3, 1.6e-2]
  combined: [{{variants: [baseline], depths: [1]}}]

#: # Your own text: docs/your-own-data.md
#: corpus:
#:   text: {{source: files, files: {{paths: [texts], licence: mine}}}}

#: # A comparison that gets a verdict of its own, fixed before the run
#: contrasts:
#:   - {{id: mine, left: silu-2, right: baseline-2, test: superiority}}
"""


def write_overlay(study: str, folder: Path) -> Path:
    """Write `<folder>/<study>.yaml` and return its path.

    Raises UserError for a name that no folder of results can have, or a file that is
    there.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", study):
        raise UserError(
            f"found {study!r}, expected a name of a-z, 0-9, _ and -, as my-study"
        )
    path = folder / f"{study}.yaml"
    if path.exists():
        raise UserError(f"{path}: there is one already")
    write_text(path, OVERLAY.format(study=study, path=path))
    return path
