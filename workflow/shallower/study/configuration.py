"""From files and single settings to a configuration that nobody has checked yet.

Free of torch: Snakemake waits for it at every start.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config
from snakemake_interface_common.exceptions import WorkflowError

from shallower.errors import UserError

# A key of the configuration: single settings in one string, with `;` between them.
OVERRIDES = "overrides"


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
        configuration: dict[str, Any] = load_configfile(path)
    except WorkflowError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    return configuration


def nested(settings: Iterable[str]) -> dict[str, Any]:
    """`training.steps=50` as {"training": {"steps": 50}}; of two of one key the last.

    A value is YAML, and a number also in the form 1e-3. Raises UserError for what has
    no key or whose value is no YAML.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, given, text = setting.partition("=")
        parts = key.strip().split(".")
        if not given or not all(parts):
            raise UserError(f"{setting}: expected KEY=VALUE, as training.steps=50")
        value = _value(setting, text)
        for part in reversed(parts):
            value = {part: value}
        update_config(found, value)
    return found


def _value(setting: str, text: str) -> Any:
    with suppress(ValueError):
        if "e" in text.lower():
            return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{setting}: the value is not YAML") from None


def apply(configuration: dict[str, Any]) -> None:
    """Apply what the key `overrides` says to all the others, in place."""
    text = configuration.pop(OVERRIDES, None)
    if text:
        parts = (part.strip() for part in str(text).split(";"))
        update_config(configuration, nested(part for part in parts if part))


def configured(
    base: Path, overlays: Iterable[Path], settings: Iterable[str]
) -> dict[str, Any]:
    """The configuration of `base` with overlays, then single settings, applied."""
    values = merge(base, list(overlays))
    update_config(values, nested(settings))
    return values
