"""What a result was made on: device, memory, versions."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import time
from pathlib import Path

import torch

from shallower.cores import peak_bytes

IMPORTED = time.monotonic()
BEFORE_IMPORT = 10.0  # seconds from a process' start to the line above, at most


def choose_device(name: str = "auto") -> torch.device:
    """'auto' is the GPU where there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The processor's own name, e.g. 'AMD EPYC' or 'NVIDIA A100-SXM4-80GB'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are faster than those of fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.is_file() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return any(name and shutil.which(name) for name in names)


def versions() -> dict[str, str]:
    """Versions that can change a number."""
    return {"python": platform.python_version(), "torch": torch.__version__}


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory held so far: of the device if it is a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes(resource.RUSAGE_SELF)


def process_age() -> float:
    """Seconds since this process began, the time to load its libraries included.

    From Linux' /proc; elsewhere since the import, plus an allowance.
    """
    try:
        stat = Path("/proc/self/stat").read_text()
        # The name, in parentheses, may hold spaces; field 22 counts ticks since boot.
        ticks = int(stat.rpartition(")")[2].split()[22 - 3])
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        return now - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - IMPORTED + BEFORE_IMPORT
