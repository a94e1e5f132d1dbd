"""A study from configuration files, merged as Snakemake merges them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config
from snakemake_interface_common.exceptions import WorkflowError

from shallower.errors import UserError


def merge(base: Path, overlays: list[Path]) -> dict[str, Any]:
    """The configuration that `snakemake --configfile OVERLAYS` gives the rules.

    Raises UserError that names the file which is missing or not YAML.
    """
    over: dict[str, Any] = {}
    for path in overlays:
        update_config(over, _read(path))
    merged = _read(base)
    update_config(merged, over)
    return merged


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file")
    try:
        return load_configfile(path)
    except WorkflowError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
