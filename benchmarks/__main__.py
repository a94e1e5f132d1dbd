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

from benchmarks import harness

WORKS = ("tokenization", "training", "jobs", "decode", "generation")
WORKS += ("pipeline", "growth")
PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "sacrebleu", "snakemake")


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
        note()
    from benchmarks import table

    table.write()


def note() -> None:
    """Write `results/about.json`: where and with what this was measured."""
    import torch

    from shallower import machine
    from shallower.code import commit

    about = {
        "device": machine.device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    path = harness.RESULTS / "about.json"
    path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
