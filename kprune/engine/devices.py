"""Which device really runs, and what it multiplies natively."""

import warnings

import torch
from torch import nn

# What a CPU multiplies bfloat16 with: AMX at about ten times the rate of float32, AVX-512 at twice.
BF16_UNITS = ("amx_bf16", "avx512_bf16")


def device() -> torch.device:
    """The GPU where a small product really runs on it, else the CPU; says why not, where one is.

    A driver can list a card that this build of PyTorch holds no kernels for.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        x = torch.ones(8, 8, device="cuda")
        assert (x @ x).sum().item() == 512
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "a wrong product"
        warnings.warn(
            f"The GPU {torch.cuda.get_device_name(0)} cannot run this build of PyTorch ({reason}); "
            "the CPU takes its place. For an older card install PyTorch for an older CUDA.",
            stacklevel=2,
        )
        return torch.device("cpu")
    return torch.device("cuda")


def native_bf16(where: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware."""
    if where.type == "cuda":
        return torch.cuda.get_device_capability(where) >= (8, 0)
    return where.type == "cpu" and any(
        torch.cpu.get_capabilities().get(unit, False) for unit in BF16_UNITS
    )


def ranking_dtype(precision: str, model: nn.Module) -> torch.dtype | None:
    """The type of matrix products in passes that only rank units; None for the model's own.

    ValueError for bf16 in a model in float16, whose norms take no other type.
    """
    if precision == "bf16" and next(model.parameters()).dtype == torch.float16:
        raise ValueError(
            'The model is in float16, which no bf16 mixes with; take precision="auto".'
        )
    if precision == "auto":
        weight = next(model.parameters())
        natively = native_bf16(weight.device) and weight.dtype == torch.float32
        precision = "bf16" if natively else "full"
    return torch.bfloat16 if precision == "bf16" else None


def synchronize(where: torch.device | None) -> None:
    """Wait for what a device has been given to do; the CPU never owes anything."""
    if where is not None and where.type != "cpu":
        torch.accelerator.synchronize(where)
