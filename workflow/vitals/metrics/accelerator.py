"""Where the heavy sums are."""

import torch

from vitals import device


def float64_device() -> torch.device:
    """The accelerator, if there is one that has float64, or else the CPU."""
    found = device.choose("auto")
    return torch.device("cpu") if found.type == "mps" else found
