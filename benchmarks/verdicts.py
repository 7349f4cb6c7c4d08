"""How often verdicts and intervals of studies are wrong, by simulation: docs/statistics.md has the table.

    python benchmarks/verdicts.py [--trials 1000] [--only WORD]

Every line simulates what the runs of a study leave (summaries of metrics per group of the test set, or values
of redrawn splits) and puts it through `compare`, as `taskloom study` does. No cell differs from training
alone. "Wrong" is the share of studies with any helped or hurt among their cells, "miss" that of intervals
that leave out 0; both are to be at most 5 %. Seeded; about six minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import taskloom as tl
from taskloom.metrics import METRICS
from taskloom.metrics.texts import metric_name
from taskloom.study.mean_of_tasks import MeanOfTasks
from taskloom.study.resampling import Resampling
from taskloom.study.statistics import Gain, Scores, choose_on_validation, compare

Floats = NDArray[np.float64]
Labels = Callable[[np.random.Generator], NDArray[Any]]
Study = Callable[[np.random.Generator], list[Gain]]
RESAMPLES = 200  # as good as 1000 for the mean over studies


@dataclass(frozen=True)
class Protocol:
    """A line of the table."""

    name: str
    study: Study


def against(metric: str, alone: Scores, *cells: Scores, **settings: Any) -> list[Gain]:
    """Gains of cells over training alone, as a study has them."""
    named = {str(number): cell for number, cell in enumerate(cells)}
    return list(compare("t", metric, alone, named, num_resamples=RESAMPLES, **settings).values())


def losses(values: Floats) -> Scores:
    """Runs judged by MSE with these losses of groups, [R, G]."""
    ones = np.ones(values.shape[1], dtype=np.int64)
    summaries = {r: {"rows": ones, "squared": line[:, None]} for r, line in enumerate(values)}
    return Scores({r: float(line.mean()) for r, line in enumerate(values)}, summaries)


def one_test_set(
    cells: int, repeats: int, groups: int, seeds: float, *, heavy: bool = False, gain: float = 0.0
) -> Study:
    """Losses: of the cell on groups (1), of the seed (`seeds`), of both (0.5); `gain` of the first cell."""

    def study(generator: np.random.Generator) -> list[Gain]:
        def cell(better: float = 0.0) -> Scores:
            draw = generator.standard_t(3, size=groups) if heavy else generator.normal(size=groups)
            both = 0.5 * generator.normal(size=(repeats, groups))
            return losses(10 - better + draw + seeds * generator.normal(size=(repeats, 1)) + both)

        return against("mse", cell(), cell(gain), *(cell() for _ in range(cells - 1)))

    return study


def unequal_groups(repeats: int, groups: int) -> Study:
    """Groups of 1 to 100 rows; rows of a group are alike."""

    def study(generator: np.random.Generator) -> list[Gain]:
        sizes = generator.geometric(0.1, size=groups).clip(max=100)

        def cell() -> Scores:
            own = generator.normal(size=groups)
            values = 10 + own + 0.5 * generator.normal(size=(repeats, 1)) / np.sqrt(sizes)
            sums = [(line * sizes)[:, None] for line in values]
            summaries = {r: {"rows": sizes, "squared": each} for r, each in enumerate(sums)}
            return Scores({r: float(each.sum() / sizes.sum()) for r, each in enumerate(sums)}, summaries)

        return against("mse", cell(), cell())

    return study


def rows_of(metric: str, task: tl.Task, labels: Labels, repeats: int, signal: float = 1.0) -> Study:
    """A real metric on rows that are groups; what a cell makes of the rows is chance, and alike for all."""

    def study(generator: np.random.Generator) -> list[Gain]:
        values = labels(generator)
        rows = len(values)
        if isinstance(task, tl.Multiclass):
            hint = np.eye(task.width)[values]
        elif isinstance(task, tl.Regression):
            hint = values.reshape(rows, -1)
        else:
            hint = 2.0 * values.reshape(rows, -1) - 1
        given = torch.as_tensor(values, dtype=task.value_dtype)
        present = torch.ones(given.shape, dtype=torch.bool)

        def cell() -> Scores:
            shared = generator.normal(size=hint.shape)
            summaries = {}
            for repeat in range(repeats):
                outputs = torch.as_tensor(signal * hint + shared + 0.3 * generator.normal(size=hint.shape))
                summaries[repeat] = METRICS[metric].summarize(
                    task, outputs, given, present, np.arange(rows), rows
                )
            return Scores({r: METRICS[metric].evaluate(each) for r, each in summaries.items()}, summaries)

        return against(metric, cell(), cell())

    return study


def rare(positives: int, rows: int = 300) -> Labels:
    return lambda _: (np.arange(rows) < positives).astype(np.int64)


def mean_of_tasks(tasks: int, repeats: int, groups: int, common: float) -> Study:
    """The row "mean of N tasks", whose tasks share `common` of what a cell makes of a group."""
    names = [str(task) for task in range(tasks)]
    mean = MeanOfTasks("mse", names)

    def study(generator: np.random.Generator) -> list[Gain]:
        ones = np.ones(groups, dtype=np.int64)

        def cell() -> Scores:
            shared = common * generator.normal(size=groups)
            own = [shared + generator.normal(size=groups) for _ in names]
            summaries = {}
            for repeat in range(repeats):
                parts = {}
                for name, each in zip(names, own, strict=True):
                    line = 10 + each + 0.3 * generator.normal() + 0.3 * generator.normal(size=groups)
                    parts[name] = {"rows": ones, "squared": line[:, None]}
                summaries[repeat] = mean.join(parts)
            once = np.ones((1, groups))
            values = {r: float(mean.evaluate(each, once)[0]) for r, each in summaries.items()}
            return Scores(values, summaries)

        return against("mse", cell(), cell(), resampling=Resampling(mean, RESAMPLES))

    return study


def trained(
    splits: Callable[[np.random.Generator], Iterator[NDArray[np.int64]]],
    ratio: float,
    *,
    seeds: bool,
    same_folds: int | None = None,
    groups: int = 30,
) -> Study:
    """Ridge regressions, trained in every repeat, on data drawn anew for every study; groups stay together.

    A side has features that tell and features of chance; the two sides are alike but for the chance.
    """

    def study(generator: np.random.Generator) -> list[Gain]:
        of = np.repeat(np.arange(groups), 4)

        def drawn(columns: int) -> Floats:
            return generator.normal(size=(len(of), columns)) + generator.normal(size=(groups, columns))[of]

        tell, sides = drawn(3), [drawn(6), drawn(6)]
        target = tell.sum(axis=1) + drawn(1)[:, 0]
        values: list[dict[int, float]] = [{}, {}]
        for repeat, test in enumerate(splits(generator)):
            here = np.isin(of, test)
            for side, chance in enumerate(sides):
                also = chance @ generator.normal(size=(6, 3)) if seeds else chance
                inputs = np.c_[tell, also]
                gram = inputs[~here].T @ inputs[~here] + np.eye(inputs.shape[1])
                weights = np.linalg.solve(gram, inputs[~here].T @ target[~here])
                values[side][repeat] = float(((target[here] - inputs[here] @ weights) ** 2).mean())
        alone, cell = map(Scores, values)
        return against("mse", alone, cell, test_over_train=ratio, same_folds=same_folds)

    return study


def folds(
    number: int, repeats: int, *, redraw: bool, groups: int = 30
) -> Callable[[np.random.Generator], Iterator[NDArray[np.int64]]]:
    def splits(generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        parts: list[NDArray[np.int64]] = []
        for repeat in range(repeats):
            if not parts or (redraw and repeat % number == 0):
                parts = np.array_split(generator.permutation(groups), number)
            yield parts[repeat % number]

    return splits


def holdouts(
    share: float, repeats: int, groups: int = 30
) -> Callable[[np.random.Generator], Iterator[NDArray[np.int64]]]:
    def splits(generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        for _ in range(repeats):
            yield generator.permutation(groups)[: int(groups * share)]

    return splits


def chosen(cells: int, repeats: int, seeds: float, groups: int = 100) -> Study:
    """The gain of the cell that is best on validation; a run's seed is lucky on validation and test alike."""

    def study(generator: np.random.Generator) -> list[Gain]:
        def cell() -> tuple[Scores, dict[int, float]]:
            luck = seeds * generator.normal(size=(repeats, 1))
            test, validation = (
                10 + luck + generator.normal(size=groups) + 0.5 * generator.normal(size=(repeats, groups))
                for _ in range(2)
            )
            return losses(test), {r: float(line.mean()) for r, line in enumerate(validation)}

        alone, others = cell()[0], [cell() for _ in range(cells)]
        gains = against("mse", alone, *(test for test, _ in others))
        validation = {"t": {str(number): values for number, (_, values) in enumerate(others)}}
        return [gains[int(choose_on_validation(validation, {"t": "mse"})["t"])]]

    return study


def on_one_test_set() -> Iterator[Protocol]:
    """One split, several seeds; `seeds` is how far these move a run, where cells move a group by 1."""
    for cells, repeats, groups, seeds in [
        (1, 3, 100, 0.5),
        (1, 5, 100, 0.1),
        (1, 3, 8, 0.5),
        (10, 3, 100, 0.5),
        (30, 3, 100, 0.5),
        (30, 5, 100, 0.5),
        (30, 5, 100, 0.05),
    ]:
        name = f"{cells} cell{'s' * (cells > 1)}, {repeats} seeds (that move a run by {seeds:g})"
        yield Protocol(f"{name}, {groups} groups", one_test_set(cells, repeats, groups, seeds))
    yield Protocol("1 cell, 3 seeds, 50 groups, heavy tails", one_test_set(1, 3, 50, 0.1, heavy=True))
    yield Protocol("1 cell, 3 seeds, 20 groups of 1 to 100 rows", unequal_groups(3, 20))
    yield Protocol("mean of 12 tasks, 5 seeds, 60 groups", mean_of_tasks(12, 5, 60, 0.7))


def of_metrics() -> Iterator[Protocol]:
    """Three seeds, rows that are groups."""
    binary, number = tl.Binary("t"), tl.Regression("t")
    for metric, few in [("auc", (1, 3, 5, 10, 150)), ("f1", (5, 30)), ("balanced_accuracy", (5, 30))]:
        for positives in few:
            counted = f"{positives} positive{'s' * (positives > 1)}"
            yield Protocol(
                f"{metric_name(metric)}, {counted} in 300 rows", rows_of(metric, binary, rare(positives), 3)
            )
    near = rows_of("accuracy", binary, rare(150), 3, signal=2.5)
    yield Protocol("accuracy, all but about 3 of 300 rows right", near)
    five = np.repeat(np.arange(5), [150, 80, 40, 20, 6])
    macro = rows_of("f1_macro", tl.Multiclass("t", 5), lambda _: five, 3)
    yield Protocol("F1 macro, 5 classes of 6 to 150 rows", macro)

    def eight(generator: np.random.Generator) -> NDArray[Any]:
        sizes = (4, 6, 10, 20, 30, 50, 80, 100)
        return np.stack([generator.permutation(300) < size for size in sizes], axis=1)

    of_eight = rows_of("f1_macro", tl.Multilabel("t", 8), eight, 3)
    yield Protocol("F1 macro, 8 labels that 4 to 100 of 300 rows have", of_eight)
    for metric in ("mae", "r2", "ccc"):
        yield Protocol(
            f"{metric_name(metric)}, 60 rows", rows_of(metric, number, lambda g: g.normal(size=60), 3)
        )


def on_redrawn_splits() -> Iterator[Protocol]:
    """Learners that are trained on data of 30 groups; where seeds matter, they decide what is looked at."""
    for seeds, told in ((False, "seeds change nothing"), (True, "seeds matter")):
        for repeats in (3, 10):
            name = f"split drawn anew, {repeats} repeats, {told}"
            yield Protocol(name, trained(holdouts(0.2, repeats), 0.25, seeds=seeds))
        for number, repeats in ((5, 5), (3, 3), (3, 9), (2, 10)):
            again = "" if number == repeats else ", the same each time round"
            drawn = folds(number, repeats, redraw=False)
            study = trained(drawn, 1 / (number - 1), seeds=seeds, same_folds=number)
            yield Protocol(f"{number} folds, {repeats} repeats{again}, {told}", study)
        twice = trained(folds(2, 12, redraw=True), 1.0, seeds=seeds)
        yield Protocol(f"6 times 2 folds drawn anew (paper 003), {told}", twice)


def of_the_chosen() -> Iterator[Protocol]:
    """Of several cells that are alike, the one that is best on validation."""
    for cells, repeats, seeds in [(10, 3, 0.05), (10, 3, 0.5), (30, 3, 0.5), (10, 10, 0.5)]:
        name = f"best of {cells} on validation, {repeats} seeds (that move a run by {seeds:g})"
        yield Protocol(name, chosen(cells, repeats, seeds))


def protocols() -> list[Protocol]:
    """All lines of the table."""
    return [*on_one_test_set(), *of_metrics(), *on_redrawn_splits(), *of_the_chosen()]


def measured(protocol: Protocol, trials: int) -> tuple[float, float, float]:
    """Shares of wrong studies and of intervals that miss; the mean gain in its deviations over studies."""
    generator = np.random.default_rng(0)
    gains = [protocol.study(generator) for _ in range(trials)]
    wrong = [any(gain.verdict in ("helped", "hurt") for gain in each) for each in gains]
    known = [gain for each in gains for gain in each if np.isfinite(gain.low)]
    missed = [not gain.low <= 0 <= gain.high for gain in known]
    values = np.array([gain.gain for gain in known])
    return float(np.mean(wrong)), float(np.mean(missed)), float(values.mean() / values.std())


def power(trials: int) -> None:
    """How often a true gain of so many standard errors is told: of one cell, and of one among ten."""
    print("| seeds | cells | " + " | ".join(f"{errors} standard errors" for errors in (2, 3, 4, 6)) + " |")
    print("|---" * 6 + "|")
    for repeats, cells in [(3, 1), (3, 10), (5, 1), (5, 10), (10, 1), (10, 10)]:
        seeds, groups, told = 0.1, 100, []
        error = np.sqrt(2 * (seeds**2 / repeats + (1 + 0.25 / repeats) / groups))
        for errors in (2, 3, 4, 6):
            study = one_test_set(cells, repeats, groups, seeds, gain=errors * error)
            generator = np.random.default_rng(0)
            found = [study(generator)[0].verdict == "helped" for _ in range(trials)]
            told.append(f"{100 * np.mean(found):.0f} %")
        print(f"| {repeats} | {cells} | {' | '.join(told)} |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--only", default="", help="lines that have this in their name")
    options.add_argument("--power", action="store_true", help="how often true gains are told, instead")
    given = options.parse_args()
    if given.power:
        power(given.trials)
        return
    print(
        "| protocol | wrong verdicts | intervals that miss | mean gain / its deviation |\n|---|---|---|---|"
    )
    for protocol in protocols():
        if given.only in protocol.name:
            wrong, missed, mean = measured(protocol, given.trials)
            shares = f"{100 * wrong:.1f} % | {100 * missed:.1f} %"
            print(f"| {protocol.name} | {shares} | {mean:+.2f} |", flush=True)


if __name__ == "__main__":
    main()
