"""Counts what a piece of PyTorch code does, on the meta device: no weights, no arithmetic, real shapes.

A `Recorder` sees every operator of forward and backward pass. Attention is recorded as one flash-attention kernel,
whatever PyTorch would choose on the meta device. Storage that is alive is followed, so that the memory of activations
is what autograd really keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Kind = Literal["matmul", "attention", "traffic"]
"""Which efficiency of the roofline holds for an operation. Convolutions are matmuls; all else only moves bytes."""

_ALLOCATIONS = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
_BACKWARD = 2.5
"""FLOPs of flash attention's backward pass, as a multiple of its forward pass: five products instead of two."""


@dataclass(frozen=True)
class Op:
    """One kernel: its FLOPs, and the bytes that it reads and writes, by the number of the storage."""

    kind: Kind
    dtype: torch.dtype
    flops: float
    reads: Mapping[int, float]
    writes: Mapping[int, float]


@dataclass(frozen=True)
class Trace:
    """The operations of one recording, in order."""

    ops: Sequence[Op]
    constant: frozenset[int]
    """Storages whose size does not grow with the rows of a batch: weights, and what is computed from weights alone."""
    kept: float
    """Bytes of the storages made inside that were alive at the end of the forward pass."""
    peak: float
    """Largest number of such bytes that were alive at once."""
    forward_ops: int
    """How many of the operations belong to the forward pass."""

    @property
    def forward(self) -> Sequence[Op]:
        """The operations of the forward pass. Without gradient they are the same."""
        return self.ops[: self.forward_ops]


@dataclass
class Recorder(TorchDispatchMode):
    """Context manager that records the operations inside it."""

    ops: list[Op] = field(default_factory=list[Op])
    live: float = 0.0
    """Bytes of the storages that were made inside and are alive."""
    peak: float = 0.0
    """The largest value of `live`."""

    def __post_init__(self) -> None:
        super().__init__()
        self._numbers: dict[int, int] = {}  # address of a storage that is alive -> its number
        self._count = 0
        self._constant: set[int] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Recorder:
        self._stack.enter_context(_flash_attention(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_constant = bool(inputs) and self._constant.issuperset([self._number(tensor) for tensor in inputs])
        out = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        is_new = [self._allocate(tensor, is_constant) for tensor in outputs]
        name = func._overloadpacket.__name__
        is_mutation = func._schema.is_mutable
        if not outputs or name in _ALLOCATIONS or not (any(is_new) or is_mutation):
            return out  # a view, or a value on the host
        count = flop_registry.get(func._overloadpacket)
        flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
        self.add("matmul" if flops else "traffic", flops, inputs, outputs)
        return out

    @property
    def constant(self) -> frozenset[int]:
        """See Trace."""
        return frozenset(self._constant)

    def add(self, kind: Kind, flops: float, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
        """Records one kernel."""
        self.ops.append(Op(kind, writes[0].dtype, flops, self._bytes(reads), self._bytes(writes)))

    def _bytes(self, tensors: Sequence[Tensor]) -> dict[int, float]:
        return {self._number(tensor): _bytes_of(tensor) for tensor in tensors}

    def _number(self, tensor: Tensor) -> int:
        """The number of a tensor's storage, which no other storage of this recording gets.

        A storage that was not made inside is a weight, so it is constant.
        """
        storage = tensor.untyped_storage()
        if _address(storage) not in self._numbers:
            self._constant.add(self._follow(storage))
        return self._numbers[_address(storage)]

    def _follow(self, storage: torch.UntypedStorage) -> int:
        number, address = self._count, _address(storage)
        self._numbers[address] = number
        self._count += 1
        weakref.finalize(storage, self._numbers.pop, address, None).atexit = False
        return number

    def _allocate(self, tensor: Tensor, constant: bool) -> bool:
        """Whether the tensor has a storage that was not seen before, which is then followed until it is freed."""
        storage = tensor.untyped_storage()
        if _address(storage) in self._numbers:
            return False
        number, size = self._follow(storage), float(storage.nbytes())
        if constant:
            self._constant.add(number)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size).atexit = False
        return True

    def _free(self, size: float) -> None:
        self.live -= size


def _address(storage: torch.UntypedStorage) -> int:
    """What identifies a storage while it is alive. Its data has no address on the meta device."""
    return storage._cdata  # pyright: ignore[reportPrivateUsage]


def _bytes_of(tensor: Tensor) -> float:
    """Bytes of the elements that a kernel reads; a dimension that is only expanded counts once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride or length == 0 else 1
    return float(count * tensor.element_size())


@contextmanager
def _flash_attention(recorder: Recorder) -> Generator[None]:
    """Replaces scaled_dot_product_attention by a kernel that keeps q, k, v, the output and one number a query.

    A replaced function, because a mode of torch.overrides is off while the backward pass computes blocks again.
    """

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return cast(Tensor, _Attention.apply(query, key, value, bool(kwargs.get("is_causal")), recorder))

    functional: Any = torch.nn.functional
    before = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before


class _Attention(torch.autograd.Function):
    """[B, H, L, D] -> [B, H, L, D]; products q k^T and (softmax) v, half of them if causal."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, recorder: Recorder) -> Tensor:
        out = torch.empty_like(q)
        statistics = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, k, v, out, statistics)
        ctx.recorder, ctx.flops = recorder, 4.0 * q.numel() * k.shape[-2] * (0.5 if causal else 1.0)
        recorder.add("attention", ctx.flops, (q, k, v), (out, statistics))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, statistics = ctx.saved_tensors
        results = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        ctx.recorder.add("attention", _BACKWARD * ctx.flops, (q, k, v, out, statistics, *grads), results)
        return *results, None, None


def trace(forward: Callable[[], Tensor], backward: bool) -> Trace:
    """Records a forward pass, with a backward pass from the sum of its result if `backward`.

    `forward` makes its inputs itself: a storage from outside counts as a weight.
    """
    with Recorder() as recorder, torch.set_grad_enabled(backward):
        result = forward()
        kept, number = recorder.live, len(recorder.ops)
        if backward:
            result.sum().backward()
    return Trace(tuple(recorder.ops), recorder.constant, kept, recorder.peak, number)


@contextmanager
def meta_device(dtype: torch.dtype) -> Generator[None]:
    """Context in which modules are made on the meta device, with parameters of this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)
