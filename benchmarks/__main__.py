"""`python -m benchmarks [work ...]`: run the benchmarks, then write the table."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec

from benchmarks import harness

WORKS = ("training", "generation", "decode", "first_token", "checkpoint", "pipeline")
ON_REQUEST = ("study", "jobs", "tokenization", "growth")  # by name alone
PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "sacrebleu", "snakemake")
PACKAGES += ("xllamacpp",)


def main(arguments: list[str]) -> None:
    """Each work in a process of its own, or, for `--one WORK`, in this one."""
    if arguments[:1] == ["--one"]:
        work = arguments[1]
        harness.write(work, importlib.import_module(f"benchmarks.{work}").run())
        return
    if arguments != ["table"]:
        for work in arguments or WORKS:
            before = time.monotonic()
            command = [sys.executable, "-m", "benchmarks", "--one", work]
            subprocess.run(command, check=True)
            print(f"{work}: {time.monotonic() - before:.0f} s", flush=True)
            note(work)
    from benchmarks import table

    table.write()


def note(work: str) -> None:
    """Where, when and with what a work was measured, into `results/about.json`."""
    import torch

    from shallower import machine
    from shallower.code import commit

    about = {
        "device": machine.device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "versions": {name: version(name) for name in PACKAGES if installed(name)},
    }
    path = harness.RESULTS / "about.json"
    works = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    works[work] = about
    path.write_text(json.dumps(works, indent=2) + "\n", encoding="utf-8")


def installed(name: str) -> bool:
    """Whether a package is there; llama.cpp may not be."""
    return find_spec(name) is not None


if __name__ == "__main__":
    main(sys.argv[1:])
