"""Where tensors live: the accelerator when there is one."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vitals.errors import VitalsError

if TYPE_CHECKING:
    import torch

FEEDING = 8  # threads that read and prepare images beside an accelerator


def choose(name: str) -> "torch.device":
    """The device of a name; "auto" is the accelerator, or the CPU where there is none to be used.

    float32 stays float32 there: TF32, which cuDNN takes by default, keeps 10 bits of a mantissa.
    Raises VitalsError for a name that torch does not know or a device that is not there.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    if name == "auto" and _withheld():
        return torch.device("cpu")
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise VitalsError(f"device '{name}': {str(error).splitlines()[0]}") from error
    return device


def accelerators() -> int:
    """How many NVIDIA accelerators this machine has, without importing torch."""
    return 0 if _withheld() else len(list(Path("/dev").glob("nvidia[0-9]*")))


def workers() -> int:
    """Threads of a pass: one where the CPU computes it, enough to feed an accelerator otherwise."""
    return FEEDING if accelerators() else 1


def _withheld() -> bool:
    """Whether this is a job of SLURM that was given none: what the node has is others' then."""
    return "SLURM_JOB_ID" in os.environ and "CUDA_VISIBLE_DEVICES" not in os.environ
