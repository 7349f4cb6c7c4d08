"""Losses: sums over present labels, by loops and finite differences, garbage where nothing is present."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import taskloom as tl
from taskloom.losses import LOSSES, SumCount, masked, per_task
from taskloom.tasks import KINDS

NAN, INF = math.nan, math.inf
ROWS = 7

TASKS = {
    "binary": tl.Binary("t"),
    "multiclass": tl.Multiclass("t", 4),
    "multilabel": tl.Multilabel("t", 3),
    "mse": tl.Regression("t", center=40.0, scale=12.0),
    "mae": tl.Regression("t", center=40.0, scale=12.0, loss="mae"),
    "huber": tl.Regression("t", center=40.0, scale=12.0, loss="huber"),
    "vector": tl.Regression("t", size=3, center=-2.0, scale=0.5),
    "landmarks": tl.Landmarks("t", 5, center=32.0, scale=16.0),
    "landmarks_mae": tl.Landmarks("t", 5, center=32.0, scale=16.0, loss="mae"),
}


def example(
    task: tl.Task, seed: int = 0, rows: int = ROWS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs, values and presence with about half of the labels missing."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(rows, task.width, generator=generator, dtype=torch.float64)
    if task.value_dtype == torch.int64:
        classes = task.width if isinstance(task, tl.Multiclass) else 2
        values = torch.randint(classes, (rows, *task.value_shape), generator=generator)
    else:
        values = 40 + 12 * torch.randn(rows, *task.value_shape, generator=generator)
    present = torch.rand(rows, *task.presence_shape, generator=generator) < 0.5
    assert 0 < int(present.sum()) < present.numel()
    return output, values, present


def loss_of(task: tl.Task, output: torch.Tensor, values: torch.Tensor, present: torch.Tensor) -> SumCount:
    labels = tl.Labels({task.name: values}, {task.name: present})
    return per_task({task.name: output}, labels, tl.TaskSet(task))[task.name]


def one_number(loss: str, output: float, target: float) -> float:
    difference = abs(output - target)
    match loss:
        case "binary_cross_entropy":
            chance = 1 / (1 + math.exp(-output))
            return -math.log(chance if target else 1 - chance)
        case "mse":
            return difference**2
        case "mae":
            return difference
        case "huber":
            return difference**2 / 2 if difference <= 1 else difference - 0.5
    raise AssertionError(loss)


def naive(
    task: tl.Task, output: torch.Tensor, values: torch.Tensor, present: torch.Tensor
) -> tuple[float, int]:
    """Sum and count by loops over Python numbers."""
    total, count = 0.0, 0
    loss = task.default_loss
    for row in range(len(output)):
        if isinstance(task, tl.Multilabel):
            for k in range(task.width):
                if present[row, k]:
                    total, count = (
                        total + one_number(loss, float(output[row, k]), int(values[row, k])),
                        count + 1,
                    )
        elif isinstance(task, tl.Landmarks):
            for k in range(len(task.class_names)):
                if present[row, k]:
                    target = [(float(v) - task.center) / task.scale for v in values[row, k]]
                    found = [float(output[row, 2 * k]), float(output[row, 2 * k + 1])]
                    point = sum(one_number(loss, o, t) for o, t in zip(found, target, strict=True)) / 2
                    total, count = total + point, count + 1
        elif present[row]:
            count += 1
            if isinstance(task, tl.Regression):
                target = (values[row].double().reshape(-1) - task.center) / task.scale
                each = [
                    one_number(loss, float(o), float(t)) for o, t in zip(output[row], target, strict=True)
                ]
                total += sum(each) / len(each)
            elif isinstance(task, tl.Binary):
                total += one_number(loss, float(output[row, 0]), int(values[row]))
            else:
                exponentials = [math.exp(float(o)) for o in output[row]]
                total -= math.log(exponentials[int(values[row])] / sum(exponentials))
    return total, count


@pytest.mark.parametrize("name", TASKS)
def test_equals_a_loop_over_the_present_labels(name: str) -> None:
    task = TASKS[name]
    output, values, present = example(task)
    result = loss_of(task, output, values, present)
    total, count = naive(task, output, values, present)
    assert result.count.item() == count
    assert result.sum.item() == pytest.approx(total, rel=1e-6)
    assert result.mean.item() == pytest.approx(total / count, rel=1e-6)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("garbage", [NAN, INF, -INF, 1e30])
def test_garbage_at_absent_labels_reaches_neither_value_nor_gradient(name: str, garbage: float) -> None:
    task = TASKS[name]
    output, values, present = example(task)
    elements = present.reshape(ROWS, -1, 1).expand(ROWS, present.reshape(ROWS, -1).shape[1], 1)
    absent = ~elements.expand(ROWS, elements.shape[1], task.width // elements.shape[1]).reshape(
        ROWS, task.width
    )
    spoilt_output = output.masked_fill(absent, garbage)
    spoilt_values = values.clone()
    spoilt_values[~present] = garbage if values.is_floating_point() else -(2**40)

    clean = output.clone().requires_grad_()
    spoilt = spoilt_output.requires_grad_()
    first, second = loss_of(task, clean, values, present), loss_of(task, spoilt, spoilt_values, present)
    first.sum.backward()
    second.sum.backward()
    assert torch.equal(first.sum, second.sum)
    assert torch.equal(first.count, second.count)
    assert torch.equal(clean.grad, spoilt.grad)
    assert torch.equal(spoilt.grad[absent], torch.zeros_like(spoilt.grad[absent]))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("known", [True, False])
def test_nothing_present_gives_zero_sum_count_mean_and_gradient(name: str, known: bool) -> None:
    task = TASKS[name]
    output = torch.full((ROWS, task.width), NAN, requires_grad=True)
    labels = tl.Labels.empty(tl.TaskSet(task), ROWS) if known else tl.Labels({}, {})
    result = per_task({"t": output}, labels, tl.TaskSet(task))["t"]
    result.mean.backward()
    assert (result.sum.item(), result.count.item(), result.mean.item()) == (0.0, 0, 0.0)
    assert torch.equal(output.grad, torch.zeros(ROWS, task.width))


@pytest.mark.parametrize("name", TASKS)
def test_gradient_equals_finite_differences(name: str) -> None:
    task = TASKS[name]
    output, values, present = example(task)
    assert torch.autograd.gradcheck(
        lambda out: loss_of(task, out, values, present).sum, output.clone().requires_grad_(), atol=1e-4
    )


@pytest.mark.parametrize("name", TASKS)
def test_sums_and_counts_of_parts_add_up(name: str) -> None:
    task = TASKS[name]
    output, values, present = example(task)
    whole = loss_of(task, output, values, present)
    parts = [
        loss_of(task, output[s], values[s], present[s]) for s in (slice(0, 3), slice(3, 3), slice(3, None))
    ]
    assert sum(part.sum.item() for part in parts) == pytest.approx(whole.sum.item(), rel=1e-9)
    assert sum(part.count.item() for part in parts) == whole.count.item()


def test_masked_hides_the_absent_from_any_loss() -> None:
    seen = {}

    def spy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen["output"], seen["target"] = output, target
        return output + target

    present = torch.tensor([True, False, True])
    result = masked(spy, torch.tensor([1.0, NAN, 3.0]), torch.tensor([10.0, INF, 30.0]), present)
    assert seen["output"].tolist() == [1.0, 0.0, 3.0]
    assert seen["target"].tolist() == [10.0, 0.0, 30.0]
    assert (result.sum.item(), result.count.item()) == (44.0, 2)


@pytest.mark.parametrize("task", [tl.Binary("t"), tl.Multiclass("t", 4)], ids=["binary", "multiclass"])
def test_labels_per_sample_equal_the_same_labels_as_rows(task: tl.Task) -> None:
    # As many samples as classes: no axis may be taken for another.
    generator = torch.Generator().manual_seed(1)
    samples = 4
    output = torch.randn(3, task.width, samples, generator=generator)
    values = torch.randint(max(task.width, 2), (3, samples), generator=generator)
    present = torch.rand(3, samples, generator=generator) < 0.6
    windows = loss_of(task, output, values, present)
    rows = loss_of(task, output.movedim(1, 2).reshape(-1, task.width), values.flatten(), present.flatten())
    assert windows.count == rows.count == present.sum()
    assert windows.sum.item() == pytest.approx(rows.sum.item(), rel=1e-6)
    spoilt = torch.where(present.unsqueeze(1), output, torch.tensor(NAN))
    assert loss_of(task, spoilt, values, present).sum.item() == windows.sum.item()
    nothing = per_task({"t": output}, tl.Labels({}, {}), tl.TaskSet(task))["t"]
    assert (nothing.sum.item(), nothing.count.item()) == (0.0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TASKS)
def test_half_precision_is_summed_in_float32(name: str, dtype: torch.dtype) -> None:
    task = TASKS[name]
    output, values, present = example(task, rows=400)
    half = output.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss_of(task, half, values, present)
    assert result.sum.dtype == torch.float32
    total, _ = naive(task, half.double(), values, present)
    assert result.sum.item() == pytest.approx(total, rel=1e-5)


def test_large_logits_stay_finite() -> None:
    task = tl.Binary("t")
    result = loss_of(task, torch.tensor([[1000.0], [-1000.0]]), torch.tensor([0, 0]), torch.ones(2).bool())
    assert result.sum.item() == 1000.0


def test_pinned_values() -> None:
    tasks = tl.TaskSet(tl.Binary("b"), tl.Regression("r", center=10.0, scale=2.0, loss="huber"))
    labels = tl.Labels(
        {"b": torch.tensor([1, 0, 1]), "r": torch.tensor([12.0, 14.0, 0.0])},
        {"b": torch.tensor([True, True, False]), "r": torch.tensor([True, True, False])},
    )
    losses = per_task({"r": torch.tensor([[0.5], [0.0], [9.0]]), "b": torch.zeros(3, 1)}, labels, tasks)
    assert list(losses) == ["b", "r"]  # in the order of the tasks
    assert losses["b"].mean.item() == pytest.approx(math.log(2))
    assert losses["r"].sum.item() == pytest.approx(0.125 + 1.5)  # |0.5 - 1| and |0 - 2| past the knee


def test_tasks_without_a_prediction_are_left_out() -> None:
    tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
    assert list(per_task({"b": torch.zeros(2, 1)}, tl.Labels.empty(tasks, 2), tasks)) == ["b"]


def test_every_kind_names_losses_that_exist_and_the_other_way_round() -> None:
    assert {loss for kind in KINDS.values() for loss in kind.known_losses} == set(LOSSES)


@pytest.mark.parametrize(
    ("output", "values", "present", "message"),
    [
        ((4, 2), (4,), (4,), r"task t \(binary\): outputs of shape \[4, 1\] expected, found \[4, 2\]"),
        ((3, 1), (4,), (4,), r"outputs of shape \[4, 1\] expected, found \[3, 1\]"),
        ((4,), (4,), (4,), r"outputs of shape \[4, 1\] expected, found \[4\]"),
        ((4, 1), (4, 5), (4, 5), r"values of shape \[4\] expected, found \[4, 5\]"),
        ((4, 1, 5), (4, 6), (4, 6), r"values of shape \[4, 5\] expected, found \[4, 6\]"),
        ((4, 1), (4,), (4, 1), r"presence of shape \[4\] expected, found \[4, 1\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    output: tuple[int, ...], values: tuple[int, ...], present: tuple[int, ...], message: str
) -> None:
    labels = tl.Labels({"t": torch.zeros(values).long()}, {"t": torch.ones(present).bool()})
    with pytest.raises(ValueError, match=message):
        per_task({"t": torch.zeros(output)}, labels, tl.TaskSet(tl.Binary("t")))


def test_presence_must_be_bool_and_predictions_must_be_of_tasks() -> None:
    tasks = tl.TaskSet(tl.Binary("t"))
    labels = tl.Labels({"t": torch.zeros(2).long()}, {"t": torch.ones(2)})
    with pytest.raises(ValueError, match=r"presence of type bool expected, found torch.float32"):
        per_task({"t": torch.zeros(2, 1)}, labels, tasks)
    with pytest.raises(ValueError, match="predictions name `gendre`, which is not among the tasks t"):
        per_task({"gendre": torch.zeros(2, 1)}, labels, tasks)


class Operators(TorchDispatchMode):
    """Writes down which operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.__name__.split(".")[0])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TASKS)
def test_no_operator_makes_a_gpu_wait(name: str) -> None:
    # Sizes and numbers that depend on the data must travel to the CPU; none of these operators may appear.
    waiting = {"nonzero", "index", "masked_select", "_local_scalar_dense", "item", "unique", "equal"}
    task = TASKS[name]
    output, values, present = example(task)
    with Operators() as selected:
        values[present]
    assert selected.names & waiting
    with Operators() as ours:
        loss_of(task, output.requires_grad_(), values, present).mean.backward()
    assert ours.names
    assert not ours.names & waiting


def test_the_loss_of_a_present_label_is_pytorchs_own() -> None:
    output, values, _ = example(TASKS["multiclass"])
    result = loss_of(TASKS["multiclass"], output, values, torch.ones(ROWS).bool())
    assert torch.allclose(result.mean, F.cross_entropy(output, values))


def test_tasks_alike_are_computed_as_one_and_equal_those_computed_alone() -> None:
    """Seven binary, three multiclass and two regression tasks in one call against one call each."""
    tasks = tl.TaskSet(
        *(tl.Binary(f"b{i}") for i in range(7)),
        *(tl.Multiclass(f"m{i}", 4) for i in range(3)),
        tl.Regression("r0", center=3.0, scale=2.0),
        tl.Regression("r1", center=-1.0, scale=0.5),
    )
    draw = torch.Generator().manual_seed(3)
    outputs = {n: torch.randn(9, t.width, generator=draw, dtype=torch.float64) for n, t in tasks.items()}
    values = {
        n: torch.randn(9, generator=draw)
        if isinstance(t, tl.Regression)
        else torch.randint(max(t.width, 2), (9,), generator=draw)
        for n, t in tasks.items()
    }
    labels = tl.Labels(values, {n: torch.rand(9, generator=draw) > 0.4 for n in tasks})
    together = {n: o.clone().requires_grad_() for n, o in outputs.items()}
    alone = {n: o.clone().requires_grad_() for n, o in outputs.items()}
    losses = per_task(together, labels, tasks)
    assert list(losses) == list(tasks)
    torch.stack([loss.mean for loss in losses.values()]).sum().backward()
    for name, output in alone.items():
        single = per_task({name: output}, labels, tasks)[name]
        torch.testing.assert_close(losses[name].sum, single.sum)
        assert losses[name].count == single.count
        single.mean.backward()
        torch.testing.assert_close(together[name].grad, output.grad)
