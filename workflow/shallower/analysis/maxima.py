"""The best of several runs: what a table of maxima shows of means and spreads.

A maximum grows with the spread of what it is taken over, so a noisier arm looks
better than it is. All figures are for independent normal runs.
"""

from __future__ import annotations

import math
from functools import cache


def expected_maximum(n: int) -> float:
    """Expected maximum of `n` standard normals, in standard deviations.

    1.163 for five: so much does a reported maximum lie above the mean.
    """
    return _moment(n, 1)


def maximum_sd(n: int) -> float:
    """Standard deviation of the maximum of `n` standard normals: .669 for five."""
    return (_moment(n, 2) - _moment(n, 1) ** 2) ** 0.5


def maximum_gap(sd_left: float, sd_right: float, n: int) -> float:
    """Expected maximum of `left` less that of `right`, both of `n` and of one mean."""
    return expected_maximum(n) * (sd_left - sd_right)


def difference_sd(sd_left: float, sd_right: float, n: int) -> float:
    """Standard deviation of the difference of two maxima of `n` runs each."""
    return maximum_sd(n) * (sd_left**2 + sd_right**2) ** 0.5


@cache
def _moment(n: int, power: int) -> float:
    """E[max^power]: the maximum of n has the density n phi(x) Phi(x)^(n - 1)."""
    from scipy.integrate import quad  # here: figures are drawn without it
    from scipy.special import ndtr

    if n < 1:
        raise ValueError(f"a maximum is of one or more, not {n}")

    def integrand(x: float) -> float:
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return float(x**power * n * density * ndtr(x) ** (n - 1))

    # Beyond 40 standard deviations there is nothing in double precision.
    return float(quad(integrand, -40, 40, points=[0], limit=200, epsabs=1e-12)[0])
