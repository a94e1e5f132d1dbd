"""How much of the machine others used while something was measured."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np

STAT = Path("/proc/stat")


class BackgroundLoad:
    """Counts from its creation on; Linux only, elsewhere the answer is NaN."""

    def __init__(self) -> None:
        self.wall, self.busy, self.own = time.monotonic(), machine_busy(), own_busy()

    def cores(self) -> float:
        """Mean number of cores kept busy by anything but this process tree."""
        wall = time.monotonic() - self.wall
        others = (machine_busy() - self.busy) - (own_busy() - self.own)
        # The clocks tick separately: a small negative number is none.
        return float(np.maximum(0.0, others / wall))


def machine_busy() -> float:
    """Seconds in which cores were not idle, since boot, summed over cores.

    Time stolen by the hypervisor counts: other virtual machines are a load too.
    """
    if not STAT.is_file():
        return float("nan")
    fields = STAT.read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def own_busy() -> float:
    """CPU seconds of this process and of the children it waited for (compilers).

    Not `os.times`, which counts in ticks of a hundredth of a second.
    """
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
