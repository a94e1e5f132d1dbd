"""Write conda's files from pyproject.toml and the two locks: python envs/generate.py.

`pyproject.toml` says which packages the code needs, `requirements.lock` and
`files.lock` which versions. `pipeline.yaml` and `pipeline.post-deploy.sh`, for
`snakemake --sdm conda`, repeat them in conda's own words.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ENVS = Path(__file__).resolve().parent

PIPELINE = """\
# For `snakemake --sdm conda`; written by envs/generate.py.
# Untried where it was written: conda's channels could not be reached.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
{packages}
# The package is used from the checkout; rules run in the project's folder.
variables:
  PYTHONPATH: workflow
"""
HOOK = """\
#!/usr/bin/env bash
# Snakemake runs this in the environment that it has made from pipeline.yaml, which
# cannot say --no-deps itself. Written by envs/generate.py.
set -euo pipefail
pip install --no-deps {packages}
"""


def normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(file: str) -> dict[str, str]:
    """Normalised name -> the line that pins it."""
    lines = (ENVS / file).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    return {normal(pin.split("==")[0]): pin for pin in pins}


def needed() -> list[str]:
    """Normalised names of the packages that the code needs."""
    text = (ENVS.parent / "pyproject.toml").read_text(encoding="utf-8")
    requirements = tomllib.loads(text)["project"]["dependencies"]
    return [normal(re.split(r"[><=~!; \[]", each)[0]) for each in requirements]


def contents() -> dict[str, str]:
    """File in envs/ -> its content."""
    pins = locked("requirements.lock")
    packages = "\n".join(f"      - {pins[name]}" for name in needed())
    apart = " ".join(locked("files.lock").values())
    return {
        "pipeline.yaml": PIPELINE.format(packages=packages),
        "pipeline.post-deploy.sh": HOOK.format(packages=apart),
    }


if __name__ == "__main__":
    for name, content in contents().items():
        (ENVS / name).write_text(content, encoding="utf-8")
