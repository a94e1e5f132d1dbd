"""Our log handler by the name that Snakemake expects: `--logger shallower`.

Snakemake finds a logger plugin by its module's name; the handler is in the package.
This is also the first code of ours that Snakemake runs, before it makes its cache.
"""

from shallower.files import find_a_cache
from shallower.terminal.handler import LogHandler

__all__ = ["LogHandler"]

find_a_cache()
