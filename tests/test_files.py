"""Tables without pandas are as pandas writes them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shallower.files import write_csv

VALUES = st.tuples(
    st.integers(0, 10**9), st.floats(allow_infinity=False), st.text("ab")
)


@pytest.mark.parametrize("float_format", [None, "%.6g"])
def test_a_table_is_as_pandas_writes_it(
    tmp_path_factory: pytest.TempPathFactory, float_format: str | None
) -> None:
    path: Path = tmp_path_factory.mktemp("csv") / "table.csv"

    @given(st.lists(VALUES, min_size=1))
    def check(rows: list[tuple[int, float, str]]) -> None:
        rows = [(a, b, c or "c") for a, b, c in rows] + [(0, math.nan, "x")]
        write_csv(path, ["step", "loss", "name"], rows, float_format)
        table = pd.DataFrame(rows, columns=["step", "loss", "name"])
        due = table.to_csv(index=False, float_format=float_format)
        assert path.read_text() == due

    check()
