"""`python -m benchmarks [work ...]`: run the benchmarks, then write the table."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time

from benchmarks import harness

WORKS = ("tokenization", "metrics", "training", "jobs", "decode", "generation")
WORKS += ("pipeline", "growth")


def main(arguments: list[str]) -> None:
    """Each work in a process of its own, or, for `--one WORK`, in this one."""
    if arguments[:1] == ["--one"]:
        work = arguments[1]
        harness.write(work, importlib.import_module(f"benchmarks.{work}").run())
        return
    for work in arguments or WORKS:
        before = time.monotonic()
        subprocess.run([sys.executable, "-m", "benchmarks", "--one", work], check=True)
        print(f"{work}: {time.monotonic() - before:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
