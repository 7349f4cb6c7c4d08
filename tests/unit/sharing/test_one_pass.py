"""What MTAN and experts work out in one pass over memory, against the formulas as operations of autograd."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from _module_networks import gradients, inputs_of, network_of
from taskloom.sharing import memory
from taskloom.sharing.modules import combination, gates
from taskloom.sharing.modules.attending import Mask, attend
from taskloom.sharing.modules.combination import combine
from taskloom.sharing.modules.gates import Gate
from taskloom.sharing.modules.mtan import Attention

CHANNELS, HIDDEN, BEFORE = 3, 4, 2


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def along(bias: Tensor, like: Tensor) -> Tensor:
    return bias.reshape(1, -1, *(1,) * (like.dim() - 2))


def attended(outputs: Tensor, mask: Mask, recalled: Tensor | None, positions: tuple[int, ...]) -> Tensor:
    """Equations 1 and 2 of Liu et al., and adaptive pooling, axis by axis and window by window."""
    hidden = torch.einsum("hc,nc...->nh...", mask.reads, outputs) + along(mask.reads_bias, outputs)
    if mask.recalls is not None:
        assert recalled is not None
        hidden = hidden + torch.einsum("hb,nb...->nh...", mask.recalls, recalled)
    scores = torch.einsum("ch,nh...->nc...", mask.gives, hidden.relu()) + along(mask.gives_bias, outputs)
    found = outputs / (1 + (-scores).exp())
    for axis, new in enumerate(positions, start=2):
        old = found.shape[axis]
        windows = [
            found.narrow(axis, i * old // new, -(-(i + 1) * old // new) - i * old // new) for i in range(new)
        ]
        found = torch.stack([window.mean(axis) for window in windows], dim=axis)
    return found


def mask_of(*, recalls: bool, dtype: torch.dtype = torch.float64) -> Mask:
    shapes = ((HIDDEN, CHANNELS), (HIDDEN,), (CHANNELS, HIDDEN), (CHANNELS,))
    weights = [drawn(*shape, dtype=dtype) for shape in shapes]
    return Mask(*weights, drawn(HIDDEN, BEFORE, dtype=dtype) if recalls else None)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize("recalls", [False, True])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize(
    ("old", "new"),
    [((), ()), ((6,), (4,)), ((6,), (6,)), ((4, 6), (4, 4)), ((5, 3), (2, 1)), ((4, 6), (4, 6))],
)
def test_attention_is_that_of_the_formula(
    old: tuple[int, ...],
    new: tuple[int, ...],
    last: bool,
    recalls: bool,
    block_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(memory.BLOCK_BYTES, "cpu", block_bytes)
    torch.manual_seed(1)
    outputs = drawn(5, CHANNELS, *old)
    masks = [mask_of(recalls=recalls) for _ in range(2)]
    before = [drawn(5, BEFORE, *old) for _ in masks] if recalls else []
    read = outputs.movedim(1, -1).contiguous().movedim(-1, 1) if last else outputs

    passed, found = attend(read, masks, before, new)
    assert torch.equal(passed, outputs)
    expected = [
        attended(outputs, mask, before[task] if recalls else None, new) for task, mask in enumerate(masks)
    ]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    leaves = [outputs, *before, *(tensor for mask in masks for tensor in mask.tensors())]
    given = [torch.randn_like(tensor) for tensor in expected]
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, given),
        torch.autograd.grad(expected, leaves, given),
        rtol=1e-11,
        atol=1e-12,
    )


def test_attention_in_single_precision_by_convolutions() -> None:
    """Rows that divide into 16 images or more run as 1 x 1 convolutions, others as products."""
    for batch in (4, 5):  # 4 x 12 rows make 16 images, 5 x 7 none
        torch.manual_seed(batch)
        positions = (12,) if batch == 4 else (7,)
        outputs = drawn(batch, CHANNELS, *positions, dtype=torch.float32)
        mask = mask_of(recalls=True, dtype=torch.float32)
        before = drawn(batch, BEFORE, *positions, dtype=torch.float32)
        found = attend(outputs, [mask], [before], positions)[1][0]
        expected = attended(outputs, mask, before, positions)
        torch.testing.assert_close(found, expected)
        leaves = [outputs, before, *mask.tensors()]
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), leaves),
            torch.autograd.grad(expected.square().sum(), leaves),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("hidden", [4, 16], ids=["apart", "side by side"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("heard", [(0, 1, 2), (0, 2)], ids=str)
@pytest.mark.parametrize("block_bytes", [1 << 8, 1 << 20])
def test_attention_of_many_rows_with_the_weights_of_all_tasks_joined(
    block_bytes: int, heard: tuple[int, ...], dtype: torch.dtype, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """192 rows of three tasks, some of them in the loss, beside another reader of the outputs."""
    monkeypatch.setitem(memory.BLOCK_BYTES, "cpu", block_bytes)
    torch.manual_seed(3)
    outputs = drawn(4, CHANNELS, 6, 8, dtype=dtype)
    shapes = ((hidden, CHANNELS), (hidden,), (CHANNELS, hidden), (CHANNELS,), (hidden, BEFORE))
    masks = [Mask(*(drawn(*shape, dtype=dtype) for shape in shapes)) for _ in range(3)]
    before = [drawn(4, BEFORE, 6, 8, dtype=dtype) for _ in masks]
    passed, found = attend(outputs, masks, before, (3, 8))
    expected = [attended(outputs, mask, old, (3, 8)) for mask, old in zip(masks, before, strict=True)]
    torch.testing.assert_close(found, expected)

    def loss_of(tensors: list[Tensor], read: Tensor) -> Tensor:
        return sum((tensors[task].square().sum() for task in heard), start=read.sin().sum())

    leaves = [outputs, *before, *(tensor for mask in masks for tensor in mask.tensors())]
    ours = torch.autograd.grad(loss_of(found, passed), leaves, allow_unused=True)
    theirs = torch.autograd.grad(loss_of(expected, outputs), leaves, allow_unused=True)
    exact = dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-11 if exact else 2e-4, atol=1e-11 if exact else 2e-4)


def test_outputs_that_go_on_alone_have_the_gradient_that_comes_back() -> None:
    outputs, masks = drawn(4, CHANNELS, 6), [mask_of(recalls=False)]
    passed, _ = attend(outputs, masks, [], (6,))
    (gradient,) = torch.autograd.grad(passed.square().sum(), [outputs])
    assert torch.equal(gradient, 2 * outputs)


def test_a_task_out_of_the_loss_and_what_is_frozen_get_no_gradient() -> None:
    outputs, masks = drawn(4, CHANNELS, 6), [mask_of(recalls=False) for _ in range(2)]
    masks[1].reads.requires_grad_(False)
    found = attend(outputs, masks, [], (6,))[1]
    of_reads = torch.autograd.grad(found[1].sum(), [masks[0].reads], retain_graph=True, allow_unused=True)
    assert of_reads == (None,)
    expected = attended(outputs, masks[1], None, (6,))
    leaves = [outputs, masks[1].gives]
    torch.testing.assert_close(
        torch.autograd.grad(found[1].sum(), leaves), torch.autograd.grad(expected.sum(), leaves)
    )


@pytest.mark.parametrize("kind", ["mlp", "conv1d", "conv2d", "lstm"])
def test_networks_with_attention_give_the_same_either_way(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = network_of("mtan", kind, 3), inputs_of(kind)
    together = network(inputs)
    of_together = gradients(network, together.values())
    monkeypatch.setattr(sys.modules["taskloom.sharing.modules.mtan"], "can_attend", lambda *_: False)
    apart = network(inputs)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
    of_apart = gradients(network, apart.values())
    torch.testing.assert_close(of_together, of_apart, rtol=1e-10, atol=1e-11)


def test_a_hook_at_a_mask_is_called_and_changes_nothing() -> None:
    network, inputs = network_of("mtan", "conv2d", 2), inputs_of("conv2d")
    before, seen = network(inputs), []
    masks = [module for module in network.modules() if isinstance(module, Attention)]
    for mask in masks:
        mask.register_forward_hook(lambda module, _inputs, _output: seen.append(module))
    torch.testing.assert_close(network(inputs), before, rtol=1e-12, atol=1e-12)
    assert {id(module) for module in seen} == {id(module) for module in masks}


def summed(weights: list[Tensor], experts: list[Tensor], choices: list[tuple[int, ...]]) -> list[Tensor]:
    return [
        torch.stack(
            [
                sum(
                    (weight[row, place] * experts[expert][row] for place, expert in enumerate(choice)),
                    start=0.0,
                )
                for row in range(len(experts[0]))
            ]
        )
        for weight, choice in zip(weights, choices, strict=True)
    ]


@pytest.mark.parametrize("long_row", [1, 1 << 15], ids=["row by row", "all rows at once"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_combinations_are_sums_over_rows(
    last: bool, block_bytes: int, long_row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(memory.BLOCK_BYTES, "cpu", block_bytes)
    monkeypatch.setattr(combination, "_LONG_ROW", long_row)
    torch.manual_seed(2)
    choices = [(0, 1), (0, 2), (1,), (0, 1, 2)]
    weights, experts = [drawn(4, len(choice)) for choice in choices], [drawn(4, 3, 2, 5) for _ in range(3)]
    lie = [expert.contiguous(memory_format=torch.channels_last) for expert in experts] if last else experts
    found, expected = combine(weights, lie, choices), summed(weights, experts, choices)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves = [*weights, *experts]
    for parts in (slice(0, 4), slice(2, 3)):  # and one receiver of four in the loss
        given = [torch.randn_like(tensor) for tensor in expected[parts]]
        torch.testing.assert_close(
            torch.autograd.grad(
                found[parts], leaves, given, retain_graph=True, materialize_grads=True, allow_unused=True
            ),
            torch.autograd.grad(
                expected[parts], leaves, given, retain_graph=True, materialize_grads=True, allow_unused=True
            ),
            rtol=1e-12,
            atol=1e-12,
        )


def test_a_block_has_rows_for_the_cache_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory.BLOCK_BYTES, "cpu", 100)
    tensors = [torch.zeros(9, 2, 3)] * 2  # 48 bytes a row
    for threads, rows in ((1, 2), (2, 4), (9, 18)):
        monkeypatch.setattr(torch, "get_num_threads", lambda found=threads: found)
        assert memory.block_rows(tensors) == rows
        assert [len(range(9)[block]) for block in memory.row_blocks(tensors)] == [
            min(rows, 9 - start) for start in range(0, 9, rows)
        ]
    assert memory.block_rows(tensors, row_bytes=10**6) == 1


def test_a_gate_reads_channels_last_as_channels_first() -> None:
    gate, inputs = Gate((3, 2, 5), 4, bias=True).double(), drawn(6, 3, 2, 5)
    found = gate(inputs.contiguous(memory_format=torch.channels_last))
    expected = functional.linear(inputs.flatten(1), gate.linear.weight, gate.linear.bias).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves: list[Tensor | nn.Parameter] = [inputs, gate.linear.weight]
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
    )


@pytest.mark.parametrize(
    ("name", "settings"), [("mtan", {}), ("ple", {}), ("mmoe", {"experts": 3}), ("dselect_k", {"experts": 3})]
)
def test_many_gradients_at_once_are_those_one_by_one(name: str, settings: dict[str, int]) -> None:
    """Jacobians of balancers ask for the gradients of all tasks in one batched backward pass."""
    network, inputs = network_of(name, "conv2d", 3, **settings), inputs_of("conv2d")
    parameters = list(network.stages.parameters())
    losses = torch.stack([output.square().sum() for output in network(inputs).values()])

    def gradients_of(weights: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(losses, parameters, weights, retain_graph=True, materialize_grads=True)

    rows = torch.eye(3, dtype=torch.float64)
    batched = torch.vmap(gradients_of, chunk_size=3)(rows)
    for task, row in enumerate(rows):
        torch.testing.assert_close(
            [gradient[task] for gradient in batched], list(gradients_of(row)), rtol=1e-10, atol=1e-11
        )


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("heard", ["both", "weights", "inputs"])
@pytest.mark.parametrize("long_row", [1, 1 << 15], ids=["row by row", "all rows at once"])
def test_a_gate_passes_its_inputs_on_with_both_gradients(
    long_row: int, heard: str, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "_LONG_ROW", long_row)
    torch.manual_seed(4)
    gate, inputs = Gate((3, 2, 5), 4).double(), drawn(6, 3, 2, 5)
    lies = inputs.contiguous(memory_format=torch.channels_last) if last else inputs * 1.0
    passed, weights = gate.read(lies)
    expected = functional.linear(inputs.flatten(1), gate.linear.weight).softmax(1)
    torch.testing.assert_close((passed, weights), (inputs, expected), rtol=1e-12, atol=1e-12)

    def loss_of(tensor: Tensor, factors: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        if heard != "weights":
            total = total + (tensor.square() * tensor.sin()).sum()
        return total if heard == "inputs" else total + factors.square().sum()

    leaves = [inputs, gate.linear.weight]
    torch.testing.assert_close(
        torch.autograd.grad(loss_of(passed, weights), leaves, materialize_grads=True, allow_unused=True),
        torch.autograd.grad(loss_of(inputs, expected), leaves, materialize_grads=True, allow_unused=True),
    )


@pytest.mark.parametrize("inside", [False, True], ids=["gate", "layer"])
def test_a_hook_at_a_gate_is_called_and_changes_nothing(inside: bool) -> None:
    network, inputs = network_of("ple", "conv2d", 2), inputs_of("conv2d").requires_grad_()
    before, seen = network(inputs), []
    found = [module for module in network.modules() if isinstance(module, Gate)]
    watched = [gate.linear if inside else gate for gate in found]
    for module in watched:
        module.register_forward_pre_hook(lambda module, _inputs: seen.append(module))
    torch.testing.assert_close(network(inputs), before, rtol=1e-12, atol=1e-12)
    assert {id(module) for module in seen} == {id(module) for module in watched}


@pytest.mark.parametrize("name", ["mtan", "mmoe", "dselect_k", "ple", "cross_stitch"])
@pytest.mark.parametrize("kind", ["mlp", "conv2d"])
def test_a_batch_without_rows_passes_and_has_no_gradient(name: str, kind: str) -> None:
    network = network_of(name, kind, 2).eval()
    predictions = network(inputs_of(kind)[:0])
    assert {task: len(output) for task, output in predictions.items()} == dict.fromkeys(network.tasks, 0)
    assert not any(gradient.any() for gradient in gradients(network, predictions.values()).values())
