"""`python -m benchmarks.gpu`: renew the tables of docs/gpu.md from docs/gpu-run/.

What stands there was measured once, on a GPU that was lent for half an hour; this
only computes from it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shallower.analysis.statistics import ratio_interval

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "gpu-run"
PAGE = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
FLOAT = 4  # bytes
SIZES = {"paper": (1024, 2752, 32_000), "study": (512, 1376, 2048)}  # d, H, V


def write() -> None:
    """Put the tables between their marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = "\n\n".join([training(), decoding(), ratios()])
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")


def training() -> str:
    """Training at the paper's size: speed and utilisation."""
    rows = pd.read_csv(KEPT / "training.csv")
    lines = ["| model | tokens a second | MFU | memory |", "|---|--:|--:|--:|"]
    for row in rows.to_dict("records"):
        memory = row["peak_memory_bytes"] / 2**30
        speed, mfu = row["tokens_per_second"], row["mfu"]
        lines.append(
            f"| {row['model']} | {speed:,.0f} | {mfu:.1%} | {memory:.1f} GiB |"
        )
    return "\n".join(lines)


def table() -> pd.DataFrame:
    """Microseconds a token by session, of the workload that is best comparable."""
    return pd.read_csv(KEPT / "latency.csv")


def decoding() -> str:
    """Time a token of the ends of the depth study, eager and as a CUDA graph."""
    rows = table()
    rows = rows[rows["workload"] == "decode"]
    wide = rows.groupby(["scale", "model", "form", "mode"])["us_per_token"].mean()
    head = "| scale | model | form | eager (µs) | CUDA graph (µs) | read at (GB/s) |"
    lines = [head, "|---|---|---|--:|--:|--:|"]
    for (scale, model, form), part in wide.groupby(level=[0, 1, 2]):
        times = part.droplevel([0, 1, 2])
        speed = read_bytes(scale, model) / times["graph"] / 1000
        cells = [scale, model, form, f"{times['eager']:,.0f}", f"{times['graph']:,.0f}"]
        lines.append("| " + " | ".join([*cells, f"{speed:,.0f}"]) + " |")
    return "\n".join(lines)


def read_bytes(scale: str, model: str) -> int:
    """Bytes of the weights that a token reads, as a baseline has them."""
    width, hidden, vocabulary = SIZES[scale]
    depth = int(model.rpartition("-")[2])
    block = 4 * width**2 + 3 * width * hidden + 2 * width
    return FLOAT * (depth * block + vocabulary * width + width)


def ratios() -> str:
    """Eight baseline blocks over five proposed ones, with intervals over sessions."""
    rows = table()
    head = "| scale | mode | as trained | folded |"
    lines = [head, "|---|---|--:|--:|"]
    for scale in ("paper", "study"):
        for mode in ("eager", "graph"):
            part = rows[(rows["workload"] == "decode") & (rows["scale"] == scale)]
            part = part[part["mode"] == mode].set_index(["model", "form", "session"])
            cells = [
                _ratio(part["us_per_token"], form) for form in ("trained", "folded")
            ]
            lines.append(f"| {scale} | {mode} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _ratio(times: pd.Series, form: str) -> str:
    slow, fast = times["baseline-8", "trained"], times["proposed-5", form]
    ratio, low, high = ratio_interval(slow.to_numpy(), fast.to_numpy())
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    write()
