"""Meta-tensor memory tracker: counts the memory that a computation takes on a card, without the card.

The computation is done to tensors of torch's meta device, which have shapes and no numbers: they stand for what lies on
the card, ordinary tensors of the CPU for what lies in the computer's memory. Every storage is counted from its making
to its end. What CUDA does otherwise than a CPU is done here too: autocast's casts, by the lists of torch's
ATen/autocast_mode.h, and the attention kernels, with what they keep for the backward pass.

torch's own MemTracker and FakeTensorMode do not serve: on a CPU build of torch, a fake CUDA parameter that needs a
gradient aborts when its gradient is accumulated.

Not counted: the CUDA context, what kernels ask for within themselves, memory in pieces too small to use.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

META = torch.device("meta")
HOST = torch.device("cpu")

_LOWER: dict[Any, tuple[str, ...]] = {
    F: ("linear", "conv2d"),
    torch: ("matmul", "mm", "bmm", "addmm", "addbmm", "baddbmm", "einsum"),
    Tensor: ("__matmul__", "__rmatmul__", "matmul", "mm", "bmm", "addmm", "baddbmm"),
}
_WHOLE: dict[Any, tuple[str, ...]] = {
    F: ("layer_norm", "group_norm", "rms_norm", "interpolate", "softplus", "mse_loss")
}
"""Of autocast's lists, what models are made of."""
_WIDEST_FLASH_HEAD = 256
_SHAPES: dict[Any, Any] = {}
"""What was made of which shapes: the same in every count of a process."""


class MetaMemoryTracker(TorchDispatchMode):
    """Bytes of the storages that live on `card` and elsewhere, while this is entered: `now`, and at their `peak`.

    host_now and host_peak are the same of what lies in the computer's memory, where moving something off the card puts
    it. `card` is the CPU itself when real tensors are counted.
    """

    def __init__(self, card: torch.device = META) -> None:
        super().__init__()
        self.now = self.peak = self.host_now = self.host_peak = 0
        self._card = card.type
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = _kind(func)
        if kind == _CHANGES_VALUES and args[0].device.type == META.type:
            return args[0]  # meta tensors hold no data: skip in-place ops
        made = self._remembered(func, args, kwargs) if kind == _MAKES else _done(func, args, kwargs)
        if kind != _VIEWS:
            for tensor in (made,) if isinstance(made, Tensor) else tree_leaves(made):
                if isinstance(tensor, Tensor):
                    self.add(tensor)
        return made

    def _remembered(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """`func` done; from what it gave to tensors of the same shapes, where it was done to such before.

        Asking torch for the shape of a sum takes longer than all else here, and a UNet's blocks are much alike.
        """
        try:
            # A factory that is told no dtype takes the default one, which loading a model changes for a while.
            key = (func, torch.get_default_dtype(), _described(args), _described(tuple(kwargs.items())))
            if _SHAPES.get(key):
                made = [torch.empty_strided(*shape, dtype=dtype, device=META) for shape, dtype in _SHAPES[key][0]]
                return made[0] if _SHAPES[key][1] else tuple(made)
        except _Indescribable:
            return _done(func, args, kwargs)
        made = _done(func, args, kwargs)
        single = isinstance(made, Tensor)
        inputs = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        tensors = (made,) if single else made
        if isinstance(tensors, tuple) and all(
            isinstance(one, Tensor) and one.device.type == META.type and one.untyped_storage()._cdata not in inputs
            for one in tensors
        ):
            _SHAPES[key] = ([((one.shape, one.stride()), one.dtype) for one in tensors], single)
        return made

    def add(self, tensor: Tensor) -> None:
        """Count the storage of `tensor`, once, until it ends."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        on_card, size = tensor.device.type == self._card, storage.nbytes()

        def ended(_: Any) -> None:
            del self._known[key]
            self._change(on_card, -size)

        self._known[key] = weakref.ref(storage, ended)
        self._change(on_card, size)

    def _change(self, on_card: bool, size: int) -> None:
        if on_card:
            self.now += size
            self.peak = max(self.peak, self.now)
        else:
            self.host_now += size
            self.host_peak = max(self.host_peak, self.host_now)


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind `tensors`, each once."""
    return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}.values())


@contextmanager
def emulate_cuda_autocast() -> Iterator[None]:
    """What CUDA's autocast and attention do, done to tensors of the meta device, for a `with` block.

    The meta device has no autocast of its own: that of the CPU stands for it, and says whether it is on.
    """
    casts = _Casts()
    begin, leave = torch.autocast.__init__, torch.autocast.__exit__

    def begun(autocast: Any, device_type: str, *how: Any, **more: Any) -> None:
        begin(autocast, HOST.type if device_type == META.type else device_type, *how, **more)

    def left(autocast: Any, *error: Any) -> Any:
        answer = leave(autocast, *error)
        if not torch.is_autocast_enabled("cpu"):
            casts.cached.clear()
        return answer

    with ExitStack() as patched:
        patched.enter_context(patch.multiple(torch.autocast, __init__=begun, __exit__=left))
        patched.enter_context(patch.object(F, "scaled_dot_product_attention", casts.attention))
        for cast, places in ((casts.lower, _LOWER), (casts.whole, _WHOLE)):
            for place, names in places.items():
                for name in names:
                    patched.enter_context(patch.object(place, name, casts.casting(getattr(place, name), cast)))
        yield


class _Casts:
    """What autocast casts, and the casts that it keeps."""

    def __init__(self) -> None:
        self.cached: dict[int, tuple[Tensor, Tensor]] = {}

    def casting(self, function: Callable[..., Any], cast: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def done(*args: Any, **kwargs: Any) -> Any:
            if torch.is_autocast_enabled("cpu"):
                args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
            return function(*args, **kwargs)

        return done

    def lower(self, tensor: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu")
        if tensor.dtype == dtype or not _floats_on_card(tensor):
            return tensor
        if not (tensor.dtype == torch.float32 and tensor.requires_grad and tensor.is_leaf):
            return tensor.to(dtype)
        if id(tensor) not in self.cached:  # as CUDA's: weights that are trained are cast once for a whole forward pass
            self.cached[id(tensor)] = (tensor, tensor.to(dtype))
        return self.cached[id(tensor)][1]

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.float() if _floats_on_card(tensor) else tensor

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *_: Any, **how: Any
    ) -> Tensor:
        """As torch chooses on CUDA: flash attention in half precision, else the memory-efficient kernel."""
        if torch.is_autocast_enabled("cpu"):
            q, k, v = map(self.lower, (q, k, v))
        scale, causal = how.get("scale"), how.get("is_causal", False)
        half = q.dtype in (torch.bfloat16, torch.float16)
        if attn_mask is None and half and q.shape[-1] <= _WIDEST_FLASH_HEAD:
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)[0]
        kept = torch.is_grad_enabled() and any(one.requires_grad for one in (q, k, v))
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        return efficient(q, k, v, attn_mask, kept, 0.0, causal, scale=scale)[0]


def _floats_on_card(tensor: Tensor) -> bool:
    return tensor.device.type == META.type and tensor.is_floating_point()


def _done(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`func` done; what moves to the computer's memory has nothing to copy, and needs no pinned pages to be counted."""
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    aten = torch.ops.aten
    if func is aten._pin_memory.default:
        return args[0]
    if func is aten._to_copy.default and _is_host(kwargs.get("device")) and args[0].device.type == META.type:
        dtype = kwargs.get("dtype") or args[0].dtype
        return torch.empty_strided(args[0].size(), args[0].stride(), dtype=dtype, device=HOST)
    if func is aten.copy_.default and args[0].device.type == HOST.type and args[1].device.type == META.type:
        return args[0]
    return func(*args, **kwargs)


def _is_host(device: Any) -> bool:
    return device is not None and torch.device(device).type == HOST.type


_VIEWS, _CHANGES_VALUES, _MAKES, _OTHER = range(4)
_IN_PLACE = {
    "add_",
    "sub_",
    "mul_",
    "div_",
    "copy_",
    "zero_",
    "fill_",
    "normal_",
    "uniform_",
    "lerp_",
    "addcmul_",
    "addcdiv_",
}


@cache
def _kind(func: Any) -> int:
    """What `func` does: gives a view of what it was given, changes that in place, or makes something new."""
    returns, name = func._schema.returns, func._schema.name.removeprefix("aten::")
    aliases = [one.alias_info is not None for one in returns]
    if name in _IN_PLACE:
        return _CHANGES_VALUES
    if returns and all(aliases):
        return _VIEWS if not name.endswith("_") else _OTHER
    return _MAKES if not any(aliases) else _OTHER


_PLAIN = (str, int, float, bool, torch.dtype, torch.device, torch.layout, torch.memory_format)


class _Indescribable(Exception):
    pass


def _described(value: Any) -> Any:
    """All of `value` that decides the shapes of what is made of it, to be looked up by."""
    if isinstance(value, Tensor):
        if value.device.type != META.type:
            raise _Indescribable
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    if value is None or isinstance(value, _PLAIN):
        return type(value), value
    raise _Indescribable
