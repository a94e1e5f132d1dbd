"""What a result was made on: device, memory, versions."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import torch


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


def versions() -> dict[str, str]:
    """Versions that can change a number."""
    return {"python": platform.python_version(), "torch": torch.__version__}


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory held so far: of the device if it is a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux: KiB
