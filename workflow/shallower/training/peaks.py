"""Peak arithmetic rates of GPUs, by the name that CUDA reports.

Dense matrix products (half of what data sheets state "with sparsity"), in TFLOP/s;
products of bfloat16 summed in fp32. Sources: NVIDIA's data sheets of V100 (Jan 2020),
A100 (Jun 2021), H100 (2023 and 2024), H200 (2024), L4 (2023), L40S (2023), A10 (2021);
for the GeForce cards the white papers of GA102 (v2.1) and Ada (v2.1), which list the
rate with fp32 accumulation. A part of a GPU (MIG) and a name that is not listed have
no peak here: a utilisation from a guessed peak would be worse than none.
"""

from __future__ import annotations

import re

# Full names without the maker's, and the rates: bfloat16, tf32, float32.
PEAKS: dict[str, tuple[float | None, float | None, float]] = {
    r"V100-SXM2-(16|32)GB": (None, None, 15.7),
    r"V100-PCIE-(16|32)GB": (None, None, 14.0),
    r"A100-SXM4-(40|80)GB|A100-PCIE-40GB|A100 80GB PCIe": (312.0, 156.0, 19.5),
    r"H100 80GB HBM3": (989.5, 494.5, 67.0),
    r"H100 PCIe": (756.5, 378.0, 51.0),
    r"H100 NVL|H200 NVL": (835.5, 417.5, 60.0),
    r"H200": (989.5, 494.5, 67.0),
    r"L4": (121.0, 60.0, 30.3),
    r"L40S": (362.05, 183.0, 91.6),
    r"A10": (125.0, 62.5, 31.2),
    r"GeForce RTX 3090": (71.0, 35.6, 35.6),
    r"GeForce RTX 4090": (165.2, 82.6, 82.6),
}
RATES = ("bfloat16", "tf32", "float32")


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s of a device in 'bfloat16', 'tf32' or 'float32'; None where unknown."""
    name = re.sub(r"^(NVIDIA|Tesla) ", "", device)
    for pattern, rates in PEAKS.items():
        if re.fullmatch(pattern, name):
            rate = rates[RATES.index(precision)]
            return None if rate is None else rate * 1e12
    return None
