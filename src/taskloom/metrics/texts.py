"""Names and values of metrics as people write them: the same on pages, in the terminal and in a notebook."""

from __future__ import annotations

import math

METRIC_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "f1_macro": "F1 macro",
    "f1_weighted": "F1 weighted",
    "f1_micro": "F1 micro",
    "auc": "AUC",
    "afa": "AFA",
    "mae": "MAE",
    "mse": "MSE",
    "rmse": "RMSE",
    "r2": "R²",
    "ccc": "concordance",
    "landmark_error": "landmark error",
    "failure_rate": "failure rate",
    "failure_rate_5": "failure rate at 5 %",
    "failure_rate_10": "failure rate at 10 %",
    "delta_m": "Δm",
}
PERCENT = {"accuracy", "balanced_accuracy", "failure_rate", "failure_rate_5", "failure_rate_10"}
SHARES = PERCENT | {"f1", "f1_macro", "f1_weighted", "f1_micro", "auc", "afa"}
"""Metrics from 0 to 1: no difference of two is larger than 1."""
UNITS = {"mae", "mse", "rmse", "delta_m"}
"""Metrics with a unit; that of MSE is the square of the task's, that of the relative gain Δm %."""
MINUS = "−"


def metric_name(metric: str) -> str:
    """Name of a metric as people write it."""
    return METRIC_NAMES.get(metric, metric)


def heading(metric: str, unit: str = "") -> str:
    """A metric's name over a column of its values, with their unit.

    >>> heading("accuracy"), heading("mae", "years"), heading("auc")
    ('accuracy (%)', 'MAE (years)', 'AUC')
    """
    shown = "%" if metric in PERCENT else unit if metric in UNITS else ""
    return metric_name(metric) + (f" ({shown})" if shown else "")


def number(
    value: float, metric: str, *, signed: bool = False, like: float | None = None, further: int = 0
) -> str:
    """A metric's value without its unit: percentages of shares, three digits otherwise.

    Args:
        value: The value, or a difference of two.
        metric: Which metric.
        signed: Whether a plus is written.
        like: A value whose number of decimals is taken over, so that a difference shows as many as its parts.
        further: Decimals beyond those.

    >>> number(0.9123, "accuracy"), number(-0.02, "f1_macro", signed=True), number(5.614, "mae")
    ('91.2', '−0.020', '5.61')
    """
    if not math.isfinite(value):
        return "–"
    if metric in PERCENT:
        text = f"{100 * abs(value):.{1 + further}f}"
    elif metric in UNITS:
        text = f"{abs(value):.{_decimals(value if like is None else like) + further}f}"
    else:
        text = f"{abs(value):.{(2 if metric == 'delta_m' else 3) + further}f}"
    zero = not text.strip("0.")
    sign = "" if zero else MINUS if value < 0 else "+" if signed else ""
    return sign + text


def with_unit(value: float, metric: str, unit: str = "") -> str:
    """A metric's value with its unit.

    >>> with_unit(0.9123, "accuracy"), with_unit(5.614, "mae", "years")
    ('91.2 %', '5.61 years')
    """
    text = number(value, metric)
    if text == "–":
        return text
    if metric in PERCENT:
        return f"{text} %"
    return f"{text} {unit}" if unit and metric in UNITS else text


def bounds(low: float, high: float, metric: str, like: float) -> str:
    """An interval without its unit, with as many decimals as the value it is of.

    >>> bounds(0.8876, 0.93, "accuracy", 0.9123), bounds(math.nan, math.nan, "mae", 5.6)
    ('[88.8, 93.0]', '–')
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"[{number(low, metric, like=like)}, {number(high, metric, like=like)}]"


def _decimals(value: float) -> int:
    """Decimals that show three digits of `value`."""
    if value == 0 or not math.isfinite(value):
        return 2
    return min(max(2 - math.floor(math.log10(abs(value))), 0), 6)
