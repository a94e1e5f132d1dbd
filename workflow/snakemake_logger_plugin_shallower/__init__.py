"""Our log handler by the name that Snakemake expects: `--logger shallower`.

Snakemake finds a logger plugin by its module's name; the handler is in the package.
"""

from shallower.terminal.handler import LogHandler

__all__ = ["LogHandler"]
