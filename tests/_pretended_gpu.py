"""A GPU made of CPU tensors, for what no test on a CPU sees: tensors left behind, and waits for the device.

`PretendedGPU` is a tensor that says it lies on `cuda:0` and holds a CPU tensor, which does the work, so that
results are those of the CPU. It is as strict as a GPU: an operation on tensors of both devices fails, random
numbers take no CPU generator, there is no way into NumPy. `WAITS` counts what would make the CPU wait.

To install it changes PyTorch for good, so a process of its own does it (`_pretended_gpu_walk.py`). It stands
on PyTorch's own means for devices written in Python, which are experimental; `AVAILABLE` says whether they
are there.
What it cannot show: memory, speed, kernels of their own (cuDNN, autocast on a GPU, several GPUs).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
WAITS: Counter[str] = Counter()
"""How often the CPU would have waited, by what for."""

_HERE = torch.device("cuda", 0)
_NAME = "pretended"
_READS = torch.ops.aten._local_scalar_dense.default
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, _READS}
_TAKE_CPU_INDICES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_SIZES_FROM_VALUES = ("nonzero", "masked_select", "unique", "aten::equal")
_FACTORIES = (
    *("arange", "as_tensor", "empty", "empty_like", "empty_permuted", "empty_strided", "eye", "full"),
    *("full_like", "linspace", "ones", "ones_like", "rand", "rand_like", "randint", "randn", "randperm"),
    *("scalar_tensor", "tensor", "zeros", "zeros_like"),
)


class PretendedGPU(Tensor):
    """A tensor on the pretended GPU; `held` is what it is made of."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendedGPU:
        made: PretendedGPU = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=f"{_NAME}:0"
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _HERE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        return f"PretendedGPU({self.held!r})"

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a tensor on cuda:0 has no way into NumPy; .cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        WAITS["tolist"] += 1
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def on_cpu(tensor: Tensor) -> Tensor:
    """The tensor itself, or what one on the pretended GPU holds."""
    return tensor.held if isinstance(tensor, PretendedGPU) else tensor


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Inside, `cuda` is the pretended GPU; `install` comes first."""
    with _Functions(), _Operations():
        yield


def install() -> None:
    """Makes `cuda` and taskloom's trainer take the pretended GPU; for the rest of this process."""
    backend_registration._setup_privateuseone_for_python_backend(_NAME, backend_module=_Module())
    _register_kernels()
    for name in _FACTORIES:
        setattr(torch, name, _made_here(getattr(torch, name)))
    torch.inference_mode = torch.no_grad  # type: ignore[assignment, misc]  # wrappers have no version there
    torch.backends.mkldnn.enabled = False  # its own LSTM looks at the device behind
    _replace_lstm()
    _replace_cuda()
    _replace_fabric()


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the CPU tensors behind, after what a GPU would refuse."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendedGPU)]
    device = kwargs.get("device")
    if not ours and not _is_here(device):
        return func(*args, **kwargs)
    name = func.name()
    if ours and name.startswith("aten::to."):
        return func.decompose(*args, **kwargs)
    if func in _MOVES:
        here = _is_here(device) if device is not None else isinstance(args[0], PretendedGPU)
        if func is _READS or (ours and not here):
            WAITS["a number read" if func is _READS else "copied to the CPU"] += 1
    else:
        here = True
        _check_devices(name, args, tensors if ours else [])
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: a generator of cuda expected, found one of the CPU")
        if any(part in name for part in _SIZES_FROM_VALUES) or _has_boolean_index(name, args):
            WAITS[name] += 1
    plain = {**kwargs, "device": torch.device("cpu")} if _is_here(device) else kwargs
    results = func(*tree_map(_held, args), **tree_map(_held, plain))
    known = {id(tensor.held): tensor for tensor in ours}
    if func is torch.ops.aten.copy_.default:
        return args[0]

    def wrapped(result: Any) -> Any:
        if not isinstance(result, Tensor):
            return result
        if id(result) in known:
            return known[id(result)]
        return PretendedGPU(result) if here else result

    return tree_map(wrapped, results)


def _check_devices(name: str, args: Any, tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if isinstance(tensor, PretendedGPU) or tensor.dim() == 0:
            continue  # a GPU takes single numbers of the CPU
        if name.split(".")[0] in _TAKE_CPU_INDICES and tensor is not args[0]:
            continue
        raise RuntimeError(f"{name}: all tensors expected on one device, found cuda:0 and cpu")


def _has_boolean_index(name: str, args: Any) -> bool:
    return name == "aten::index.Tensor" and any(
        index is not None and index.dtype == torch.bool for index in args[1]
    )


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, PretendedGPU) else leaf


def _is_here(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", _NAME)


def _behind(leaf: Any) -> Any:
    """PyTorch's name of the device, where one of `cuda` is given."""
    return torch.device(_NAME, 0) if isinstance(leaf, torch.device) and leaf.type == "cuda" else leaf


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], str):
            args = (args[0], torch.device(args[1]), *args[2:])
        return func(*tree_map(_behind, args), **tree_map(_behind, kwargs or {}))


class _Module:
    """What PyTorch asks a device's module."""

    def is_initialized(self) -> bool:
        return True

    is_available = is_initialized

    def current_device(self) -> int:
        return 0

    device_count = current_device  # none: random states of other devices are kept by those who have them

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, *_: Any) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, *_: Any) -> None:
        pass


def _made_here(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The factory, also where no mode is on: autograd's threads have none for functions."""

    def make(*args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("device"), (str, torch.device)):
            kwargs["device"] = _behind(torch.device(kwargs["device"]))
        return factory(*args, **kwargs)

    return make


def _register_kernels() -> None:
    """What PyTorch calls below Python: lists of numbers that become tensors of the device."""
    global _LIBRARY
    _LIBRARY = torch.library.Library("aten", "IMPL")

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
        return PretendedGPU(torch.empty_strided(size, stride, dtype=dtype))

    def empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
        return PretendedGPU(torch.empty(size, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        WAITS["numbers sent"] += 1
        on_cpu(target).copy_(on_cpu(source))
        return target

    _LIBRARY.impl("empty_strided", empty_strided, "PrivateUse1")
    _LIBRARY.impl("empty.memory_format", empty, "PrivateUse1")
    _LIBRARY.impl("_copy_from", copy_from, "PrivateUse1")


def _replace_lstm() -> None:
    """An LSTM written out: PyTorch's asks for kernels that the pretended GPU has not."""
    plain = torch._VF.lstm  # type: ignore[attr-defined]

    def lstm(inputs: Any, states: Any, weights: Any, *rest: Any) -> Any:
        bias, layers, _, _, both_ways, batch_first = rest
        if not isinstance(inputs, PretendedGPU):
            return plain(inputs, states, weights, *rest)
        assert bias
        assert not both_ways
        steps = inputs.transpose(0, 1) if batch_first else inputs
        last: list[tuple[Tensor, Tensor]] = []
        for layer in range(layers):
            of_inputs, of_hidden, *biases = weights[4 * layer : 4 * layer + 4]
            hidden, cell = states[0][layer], states[1][layer]
            outputs = []
            for step in steps.unbind(0):
                gates = step @ of_inputs.T + hidden @ of_hidden.T + biases[0] + biases[1]
                write, keep, value, read = gates.chunk(4, -1)
                cell = keep.sigmoid() * cell + write.sigmoid() * value.tanh()
                hidden = read.sigmoid() * cell.tanh()
                outputs.append(hidden)
            steps = torch.stack(outputs)
            last.append((hidden, cell))
        hiddens, cells = (torch.stack(tensors) for tensors in zip(*last, strict=True))
        return (steps.transpose(0, 1) if batch_first else steps), hiddens, cells

    class Functions:
        def __getattr__(self, name: str) -> Any:
            return lstm if name == "lstm" else getattr(torch._VF, name)  # type: ignore[attr-defined]

    torch.nn.modules.rnn._VF = Functions()  # type: ignore[assignment]


def _replace_cuda() -> None:
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "pretended",
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 0,
        "mem_get_info": (1 << 34, 1 << 34),
        "get_rng_state": torch.zeros(1, dtype=torch.uint8),
        "set_rng_state": None,
        "get_rng_state_all": [],
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)


def _replace_fabric() -> None:
    """A Fabric whose device is the pretended GPU where `cuda` is asked for; nothing is page-locked."""
    import lightning_fabric
    from lightning_fabric.accelerators import CPUAccelerator
    from lightning_fabric.strategies import SingleDeviceStrategy
    from torch.utils.data import DataLoader

    real, start = lightning_fabric.Fabric, DataLoader.__init__

    def fabric(**settings: Any) -> Any:
        if settings["accelerator"] == "cuda":
            settings |= {"accelerator": "cpu", "strategy": SingleDeviceStrategy(device=_HERE)}
        return real(**settings)

    def without_pinning(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **{**kwargs, "pin_memory": False})

    lightning_fabric.Fabric = fabric  # type: ignore[misc, assignment]
    CPUAccelerator.setup_device = lambda self, device: None  # type: ignore[method-assign, assignment]
    DataLoader.__init__ = without_pinning  # type: ignore[method-assign, assignment]
