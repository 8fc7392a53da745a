"""Where and in which type activations are computed, and in which order a GPU adds."""

import os

import torch

from lab.base.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device_of(accelerator: str, threads: int | None = None) -> str:
    """``cpu`` or ``cuda``. Raises UserError for a GPU where there is none.

    Args:
        threads: that torch computes with on the CPU from now on; None leaves their number.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("accelerator is gpu, but torch finds no GPU here; take the CPU")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def compute_dtype(setting: str, device: str) -> str:
    """The name of the compute type: as asked, or for ``auto`` bfloat16 where the hardware multiplies it fast.

    A CPU without AVX512-BF16 or AMX emulates bfloat16 and is several times slower in it than in float32.

    Raises:
        UserError: no such type.
    """
    if setting == "auto":
        if device == "cpu":
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        else:
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if fast else "float32"
    if setting not in DTYPES:
        raise UserError(f"compute_dtype is {setting!r}: choose auto, {' or '.join(DTYPES)}")
    return setting


def exact_products() -> None:
    """Let products of float32 tensors be of float32, not of TF32 or bfloat16: what is to be 16 bits is cast to it."""
    torch.set_float32_matmul_precision("highest")


def fix_order_of_sums(wanted: bool) -> None:
    """Let torch use, on a GPU, only kernels that add in the same order every time, or any; a CPU's always do."""
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(wanted)
        # It would also fill all memory that a kernel is about to write.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
