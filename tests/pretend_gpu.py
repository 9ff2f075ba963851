"""A pretend GPU: tensors that say `cuda:0`, compute on the CPU, and refuse to mix with others.

`OnDevice` is a tensor of the CPU whose Python class says otherwise. What is made on, or moved to,
cuda becomes one (`Arrivals`); every operation with one ends in `__torch_dispatch__`, where mixing
is refused as CUDA refuses it, and where waiting for the GPU is refused inside a loop over batches.

It cannot see how CUDA's kernels round, in which order they add, or what is slow. Where there is a
real GPU, `gpu` stands back, and PyTorch itself tells of waiting.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import kprune

REAL = torch.cuda.is_available()
PACKAGE = str(Path(kprune.__file__).parent)
HOT = ("measure", "Encoder.run", ".one", ".add", ".add_products")  # run for every batch
aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
# These take a number as a CPU tensor of no dimensions, as all pointwise operations do.
NUMBERS = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.fill_.Tensor, aten.where.self}
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
}


class Mixed(RuntimeError):
    """An operation on tensors of two devices."""


class Waits(RuntimeError):
    """The host waits for the GPU where it should only hand it work."""


def wait(what: str) -> None:
    """Refuse to wait inside of what runs for every batch."""
    frame = sys._getframe(1)
    while frame and (strict or frame.f_code.co_name == "wait"):
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE) and code.co_qualname.endswith(HOT):
            raise Waits(f"{what} in {code.co_qualname}")
        frame = frame.f_back


class OnDevice(Tensor):
    """A tensor on the pretend GPU; `inner` is one of the CPU with the same memory."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: torch.device("cuda:0"))
    is_cuda, is_cpu = property(lambda self: True), property(lambda self: False)

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *_, **__):
        return self.numpy()

    def tolist(self) -> list:
        wait("tolist")
        return self.inner.tolist()

    def __deepcopy__(self, memo: dict) -> "OnDevice":
        copied = arrived(self.inner.detach().clone()).requires_grad_(self.requires_grad)
        return nn.Parameter(copied, self.requires_grad) if hasattr(self, "_is_param") else copied

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        tensors: list[Tensor] = []

        def known(x):
            if isinstance(x, Tensor):
                tensors.append(x)
            return inside(x)

        own, named = each(known, args), {name: each(known, x) for name, x in (kwargs or {}).items()}
        check(func, args, [x for x in tensors if not isinstance(x, OnDevice)])
        given = {id(inside(x)): x for x in tensors}  # of in-place operations and out=
        return each(lambda x: given.get(id(x), arrived(x)), func(*own, **named))


def each(function, x):
    """The function of each in a list, however deep."""
    return type(x)([each(function, y) for y in x]) if isinstance(x, (list, tuple)) else function(x)


def arrived(x):
    """A tensor as one of the pretend GPU."""
    if not isinstance(x, Tensor) or isinstance(x, OnDevice):
        return x
    made = Tensor._make_subclass(OnDevice, x)
    made.inner = x
    return made


def inside(x):
    """The tensor of the CPU in one of the pretend GPU."""
    return x.inner if isinstance(x, OnDevice) else x


def inner(x: Tensor) -> Tensor:
    """A tensor of the GPU, on the CPU, for comparisons."""
    return x.detach().cpu() if REAL else inside(x.detach())


def check(func, args, outside: list[Tensor]) -> None:
    """Refuse tensors of the CPU where CUDA refuses them, and what waits."""
    if func in WAITING or (func is aten.copy_.default and outside):
        wait(func._schema.name)
    elif func in INDEXED:
        if not all(isinstance(x, OnDevice) for x in (args[0], *args[2:3]) if x.dim()):
            raise Mixed(f"{func}: a tensor or values on the CPU")
        own = [x for x in args[1] if x is not None]
        if any(x.dtype == torch.bool or not isinstance(x, OnDevice) for x in own):
            wait("an index of booleans, or from the CPU")
    elif func is not aten.copy_.default:
        numbers = torch.Tag.pointwise in func.tags or func in NUMBERS
        for x in outside:
            if x.dim() or not numbers:
                raise Mixed(f"{func}: a tensor of shape {tuple(x.shape)} on the CPU")


class Arrivals(TorchFunctionMode):
    """Makes on the pretend GPU what is made on, or moved to, cuda."""

    pinned: set[int]  # memory from which copies need not wait

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as):
            return self.moved(func, *args, **kwargs)
        if func is F.scaled_dot_product_attention and not args[0].shape[1]:
            raise ZeroDivisionError("the flash kernel of CUDA divides by the number of heads")
        if func is F.one_hot and isinstance(args[0], OnDevice):  # makes an arange within C++
            return arrived(func(inside(args[0]), *args[1:], **kwargs))
        if func is Tensor.data.__get__ and isinstance(args[0], OnDevice):
            return args[0].detach()
        if func is Tensor.data.__set__ and isinstance(args[0], OnDevice):
            args[0].inner = args[1].inner
        pin, where = kwargs.pop("pin_memory", False), kwargs.get("device")
        if where is not None and func is not torch.device:
            kwargs["device"] = "cpu"
        found = func(*args, **kwargs)
        if pin:
            self.pinned.add(found.untyped_storage().data_ptr())
        if where is None or not isinstance(found, Tensor):
            return found
        if torch.device(where).type == "cpu":
            return inside(found)
        if func in (torch.tensor, torch.as_tensor):
            wait("copy from the CPU")
        return arrived(found.detach()).requires_grad_(found.requires_grad)

    def moved(self, func, x: Tensor, *args, **kwargs):
        like = next((one for one in args if isinstance(one, Tensor)), None)
        if like is not None:
            device, dtype, later = like.device, like.dtype, False
        elif func is Tensor.to:
            device, dtype, later, _ = torch._C._nn._parse_to(*args, **kwargs)
        else:
            device, dtype, later = torch.device(func.__name__), None, False
        if (device or x.device).type == x.device.type:
            return Tensor.to(x, dtype or x.dtype)
        if isinstance(x, OnDevice):
            wait("copy to the CPU")
            return inside(x.detach()).to(dtype or x.dtype, copy=True)
        if not later or x.untyped_storage().data_ptr() not in self.pinned:
            wait("copy from the CPU")
        return arrived(x.detach().to(dtype or x.dtype, copy=True))


strict = True


@contextmanager
def gpu(bf16: bool = False, memory: int = 2**34, waits: bool = False) -> Iterator[None]:
    """Within the block there is one GPU, `cuda:0`.

    Args:
        bf16: whether it multiplies bfloat16.
        memory: bytes that are free on it.
        waits: whether it may be waited for anywhere.
    """
    global strict
    strict = not waits
    free = patch.object(torch.cuda, "mem_get_info", lambda device=None: (memory, memory))
    with ExitStack() as stack, free:
        if REAL:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("always", "called a synchronizing CUDA operation")
            warnings.showwarning = lambda message, *_: wait(str(message))
            torch.cuda.set_sync_debug_mode("warn")
            stack.callback(torch.cuda.set_sync_debug_mode, "default")
        else:
            shown = {
                "is_available": lambda: True,
                "get_device_name": lambda device=None: "pretend",
                "get_device_capability": lambda device=None: (9 if bf16 else 6, 0),
                "synchronize": lambda device=None: None,
                "memory_reserved": lambda device=None: 0,
                "memory_allocated": lambda device=None: 0,
                "max_memory_allocated": lambda device=None: 0,
                "reset_peak_memory_stats": lambda device=None: None,
            }
            stack.enter_context(patch.multiple(torch.cuda, **shown))
            stack.enter_context(
                patch.object(torch.accelerator, "synchronize", shown["synchronize"])
            )
            # Module.to then puts new parameters in place of the old ones' data.
            torch.__future__.set_overwrite_module_params_on_conversion(True)
            stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
            arrivals = Arrivals()
            arrivals.pinned = set()
            stack.enter_context(arrivals)
        yield
