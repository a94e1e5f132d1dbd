"""Configuration files, checked before Snakemake reads them.

YAML takes the last of two equal keys without a word, and Snakemake runs code that a
file with `__use_yte__` holds. `python -m shallower.study.overlays FILE ...` is what
`make` calls, as Snakemake answers a file that does not exist with a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from shallower.errors import UserError

LARGEST = 1_000_000  # bytes of a file
MOST_VALUES = 100_000  # aliases can make billions of a few lines


class _Loader(yaml.SafeLoader):
    """Plain values alone, and each key once."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                line = node.value[number][0].start_mark.line + 1
                raise UserError(f"line {line}: the key {key!r} is there twice")
        return super().construct_mapping(node, deep)


def check_file(path: Path) -> None:
    """Raises UserError for a file that is missing or says something else than it seems.

    That is no YAML of plain values, holds a key twice, or code.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: larger than {LARGEST:,} bytes, expected an overlay")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: not YAML of plain values ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections, as `training:`, found none")
    if _more_values_than(MOST_VALUES, content):
        raise UserError(f"{path}: more than {MOST_VALUES:,} values, aliases resolved")
    if "__use_yte__" in content:
        raise UserError(f"{path}: __use_yte__ runs code, expected plain values")


def _more_values_than(limit: int, content: Any) -> bool:
    waiting, seen = [content], 0
    while waiting and seen <= limit:
        value = waiting.pop()
        seen += 1
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value[: limit + 1]
    return seen > limit


def main() -> None:
    """Check the files on the command line; one line and status 2 for the first bad."""
    try:
        for name in sys.argv[1:]:
            check_file(Path(name))
    except UserError as error:
        print(f"configuration: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
