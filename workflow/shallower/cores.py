"""How many cores a process may use, whether a quota stopped it, memory it took.

`os.cpu_count` counts what the machine has. A container or a cluster's job may have
fewer: a set of cores, or a quota, which is time on all of them in each period (0.1 s).
With more threads than the quota has cores, the kernel stops them all until the next
period. Quotas are those of Linux' control groups (its documentation, cgroup-v2.rst,
`cpu.max`; sched-bwc.rst for version 1), of which an outer one limits those within.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")  # a line for each hierarchy: number:controllers:path
MOUNTS = Path("/sys/fs/cgroup")


def visible_cores() -> int:
    """Cores that this process may run on, whatever its quota."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Cores that threads can keep busy without being stopped; at least one."""
    quotas = [quota for folder in _groups() if (quota := _quota(folder)) is not None]
    return max(1, int(min([visible_cores(), *quotas])))


def peak_bytes(who: int) -> int:
    """The most memory of one process, by `resource.RUSAGE_SELF` or `_CHILDREN`."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit


def limit_threads() -> None:
    """Make libraries that are not imported yet start no more threads than is of use.

    Where no quota is below the visible cores, they go on as they would.
    """
    if (cores := usable_cores()) < visible_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


class Throttling:
    """How often quotas stopped this process; counts from its creation on."""

    def __init__(self) -> None:
        self._before = _periods()

    def share(self) -> float:
        """The share of a quota's periods in which it did; 0 without a quota."""
        shares = [0.0]
        for folder, (periods, stopped) in _periods().items():
            before = self._before.get(folder, (0, 0))
            if periods > before[0]:
                shares.append((stopped - before[1]) / (periods - before[0]))
        return max(shares)


def _groups() -> list[Path]:
    """The control group that rules this process' time, and all around it."""
    found = []
    for line in _lines(GROUPS):
        _number, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = MOUNTS / "cpu" if controllers else MOUNTS
        group = mount / path.lstrip("/")
        # A container may see the path of the host, and have its own group at the root.
        if ".." in group.parts or not group.is_dir():
            group = mount
        around = [parent for parent in group.parents if parent.is_relative_to(mount)]
        found += [group, *around]
    return found


def _quota(folder: Path) -> float | None:
    """Cores that a group may keep busy on average; None if it has no limit."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    if not words:  # version 1
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [line for name in files for line in _lines(folder / name)]
    try:
        quota, period = map(int, words)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _periods() -> dict[Path, tuple[int, int]]:
    """By group with a quota: periods so far, and those in which it was used up."""
    found = {}
    for folder in _groups():
        words = dict(line.split() for line in _lines(folder / "cpu.stat"))
        if "nr_throttled" in words:
            found[folder] = int(words["nr_periods"]), int(words["nr_throttled"])
    return found


def _lines(path: Path) -> list[str]:
    """Nothing of a file that does not exist or must not be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
