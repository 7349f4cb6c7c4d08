"""What the frozen front gives is computed once: the same as computed anew, and the front never runs again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import taskloom as tl
from _freezing import PLANS, TRAIN, VALIDATION, Script, Watch, network
from _training import TASKS, TensorRows
from taskloom.data.batch import Batch
from taskloom.sharing.network import PlanNetwork
from taskloom.training import Callback, EarlyFreeze, History, TrainingConfig, TrainingState, fit
from taskloom.training.freezing import Freezing
from taskloom.training.kept_features import KeptRows, Remainder, inputs_vary, keep_features, keep_rows
from taskloom.training.optimizers import make_optimizer

CPU = torch.device("cpu")
TABLE: dict[str, list[float | None]] = {
    "age": [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0],
    "gender": [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0, 5.0],
    "mood": [5.0, 5.0, 5.0, 5.0, 4.0, 6.0, 7.0, 8.0],
}
WITH_FRONT = [name for name in PLANS if name not in ("hard sharing from the output", "soft sharing")]


def frozen(name: str, **settings: Any) -> tuple[PlanNetwork, Remainder]:
    """A network of which gender has stopped, with everything shared."""
    model = network(name, **settings)
    freezing = Freezing(model, make_optimizer(model, TrainingConfig(), tl.balancing.WeightedSum()))
    freezing.example = lambda: TRAIN.inputs[:1]
    model.train()
    freezing.stop("gender", with_shared=True)
    assert isinstance(model, PlanNetwork)
    assert freezing.remainder is not None
    return model, freezing.remainder


class Calls(Callback):
    """Counts the rows that went through the first stage, by epoch; the freeze happens after epoch 3."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.epoch = 1

    def fit_start(self, state: TrainingState) -> None:
        def count(module: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
            self.rows[self.epoch] = self.rows.get(self.epoch, 0) + len(given[0])

        first = next(iter(state.model.stages[state.model.stage_names[0]].children()))  # type: ignore
        first.register_forward_hook(count)

    def epoch_end(self, state: TrainingState) -> None:
        self.epoch = state.epoch + 1


def train(name: str, keep: float, *callbacks: Callback, **changes: Any) -> tuple[Watch, History]:
    watch = Watch()
    freeze = EarlyFreeze(patience=2, features_mb=keep)
    settings = {"epochs": 8, "batch": 16, "seed": 2, "device": "cpu", **changes}
    history = fit(
        network(name), TRAIN, VALIDATION, callbacks=[Script(TABLE), freeze, *callbacks, watch], **settings
    )
    return watch, history


@pytest.mark.parametrize("name", PLANS)
def test_kept_features_equal_recomputed_ones(name: str) -> None:
    kept, history = train(name, 1024.0)
    anew, other = train(name, 0.0)
    assert any("are kept in memory" in note for note in history.notes) == (name in WITH_FRONT)
    assert not any("are kept in memory" in note for note in other.notes)
    for first, second in zip(kept.weights, anew.weights, strict=True):
        for entry, tensor in first.items():
            torch.testing.assert_close(second[entry], tensor, rtol=1e-4, atol=1e-6)
    for one, two in zip(history.epochs, other.epochs, strict=True):
        for task, loss in one.train_loss.items():
            assert loss == (
                two.train_loss[task] if loss is None else pytest.approx(two.train_loss[task], 1e-4)
            )
        for task, by_metric in one.validation_metrics.items():
            assert by_metric == pytest.approx(two.validation_metrics[task], rel=1e-4)


@pytest.mark.parametrize("name", WITH_FRONT)
def test_kept_rows_are_what_the_network_itself_computes(name: str) -> None:
    model, remainder = frozen(name)
    kept, notes = keep_features(remainder, TRAIN, VALIDATION, budget_bytes=2**20, batch=7, device=CPU)
    assert [note.split(" are kept")[0] for note in notes] == [
        "features of the 90 training rows",
        "features of the 60 validation rows",
    ]
    model.eval()
    with torch.no_grad():
        whole = model(VALIDATION.inputs)
        from_kept = remainder.eval()(kept["validation"].rows)
    for task in TASKS:
        torch.testing.assert_close(from_kept[task], whole[task])
    with torch.no_grad():
        remainder.training = True
        of_training = remainder(kept["training"].rows)
        whole = model(TRAIN.inputs)
    assert not of_training["gender"].any()
    for task in ("age", "mood"):
        torch.testing.assert_close(of_training[task], whole[task])


def test_tensors_that_tasks_share_are_kept_once() -> None:
    for name, training, validation in (
        ("hard sharing from the input", 8, 8),  # two shared layers of 8
        ("cross-stitch after the first", 16, 24),  # a column of 8 for each task that goes on; all to validate
        ("cross-stitch everywhere", 12, 18),  # the last layer has 6
    ):
        _, remainder = frozen(name)
        kept, _ = keep_features(remainder, TRAIN, VALIDATION, budget_bytes=2**20, batch=64, device=CPU)
        assert kept["training"].input_shape == (training,)
        assert kept["validation"].input_shape == (validation,)
        index = [5, 2, 5]
        batch = kept["training"].__getitems__(index)
        assert torch.equal(batch.inputs, kept["training"].rows[index])
        assert torch.equal(batch.labels.values["age"], TRAIN.labels.values["age"][index])
        assert batch.index.tolist() == index
        assert len(kept["training"]) == len(TRAIN)


@pytest.mark.parametrize("keep", [1024.0, 0.0])
def test_the_front_runs_once_over_the_rows_after_the_freeze(keep: float) -> None:
    calls = Calls()
    model = network("hard sharing from the input")
    freeze = EarlyFreeze(patience=2, features_mb=keep)
    fit(model, TRAIN, VALIDATION, callbacks=[Script(TABLE), freeze, calls], epochs=7, device="cpu")
    rows = len(TRAIN) + len(VALIDATION)
    look = 2  # one row of each part, for the size of what is to be kept
    if keep:
        assert calls.rows == {1: rows, 2: rows, 3: rows, 4: rows + look}
    else:
        assert calls.rows == {1: rows, 2: rows, 3: rows, 4: rows + look, 5: rows, 6: rows, 7: rows}


class Noisy(TensorRows):
    """Rows that are augmented at random."""

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        batch = super().__getitems__(indices)
        return Batch(batch.inputs + torch.rand_like(batch.inputs), batch.labels, batch.index)


def test_augmented_rows_are_not_kept() -> None:
    noisy = Noisy(TRAIN.inputs, TRAIN.labels, TRAIN.groups)
    assert inputs_vary(noisy, range(4))
    assert not inputs_vary(TRAIN, range(4))
    _, remainder = frozen("hard sharing from the input")
    kept, notes = keep_features(remainder, noisy, VALIDATION, budget_bytes=2**20, batch=64, device=CPU)
    assert set(kept) == {"validation"}
    assert notes[0] == (
        "features of the training rows are computed anew in every epoch: the inputs differ each time they "
        "are read"
    )
    assert set(remainder.layouts) == {"validation"}


@pytest.mark.parametrize(
    ("augment", "kept"),
    [({"mixup": {"alpha": 0.2}}, ["validation"]), ({"label_smoothing": 0.1}, ["training", "validation"])],
)
def test_batches_that_are_augmented_go_through_the_front(augment: dict[str, Any], kept: list[str]) -> None:
    """Only what no augmentation changes is kept, and kept or not, the run is the same."""
    (watch, history), (recomputed, _) = (
        train("hard sharing from the input", keep, augment=augment, epochs=5) for keep in (1024.0, 0.0)
    )
    notes = [note for note in history.notes if "kept in memory" in note]
    assert [
        part for part in ("training", "validation") if any(f"{part} rows" in note for note in notes)
    ] == kept
    assert history.shared_frozen == 3
    for name, tensor in watch.weights[-1].items():
        torch.testing.assert_close(recomputed.weights[-1][name], tensor, rtol=1e-5, atol=1e-7)


def test_the_budget_is_for_both_and_exact() -> None:
    _, remainder = frozen("hard sharing from the input")
    of_training, of_validation = 4 * 8 * len(TRAIN), 4 * 8 * len(VALIDATION)
    for budget, expected in (
        (of_training + of_validation, {"training", "validation"}),
        (of_training + of_validation - 1, {"training"}),
        (of_training - 1, {"validation"}),
        (0, set()),
    ):
        remainder.layouts.clear()
        kept, notes = keep_features(remainder, TRAIN, VALIDATION, budget_bytes=budget, batch=32, device=CPU)
        assert set(kept) == set(remainder.layouts) == expected
    assert notes[0].endswith("they need 2.8 KiB, the budget left is 0.0 KiB")


def test_no_random_number_is_drawn_and_nothing_is_left_in_another_mode() -> None:
    model, remainder = frozen("hard sharing from the input")
    modes = {module: module.training for module in model.modules()}
    state = torch.get_rng_state()
    rows = keep_rows(remainder, TRAIN, "training", budget_bytes=2**20, batch=64, device=CPU)
    assert isinstance(rows, KeptRows)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == {module: module.training for module in model.modules()}
    assert not rows.rows.is_inference()
    assert not rows.rows.requires_grad


def test_half_precision_is_kept_in_half_the_memory() -> None:
    _, remainder = frozen("hard sharing from the input", norm=None)
    rows = keep_rows(
        remainder,
        TRAIN,
        "training",
        budget_bytes=2**20,
        batch=64,
        device=CPU,
        precision=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    assert isinstance(rows, KeptRows)
    assert rows.rows.dtype == torch.bfloat16


def test_a_network_of_other_kind_keeps_its_features_where_nothing_in_them_learns() -> None:
    tasks = TASKS
    for name, settings, kept in (
        ("mmoe", {"experts": 2}, False),  # gates of the tasks stand before the features
        ("multilinear_relationship", {}, True),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = tl.sharing.build(name, tl.encoders.mlp((4,), hidden=[8, 6]), tasks, **settings)
        history = fit(
            model,
            TRAIN,
            VALIDATION,
            callbacks=[Script(TABLE), EarlyFreeze(patience=2)],
            epochs=6,
            device="cpu",
        )
        assert history.shared_frozen == 3
        assert any("are kept in memory" in note for note in history.notes) == kept
