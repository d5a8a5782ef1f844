"""What attention costs beside a bare forward pass: folded in tiles, or made whole.

    python benchmarks/folding.py --rounds 25

Every candidate passes the same batch of noise through the same model with random weights on one
thread, and computes more or less of what is kept of attention. Writes folding.csv and folding.md
beside this file.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from paired import machine, markdown, ratios
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vitals.activations import attention, capture, layout
from vitals.activations.attention import TokenRoles
from vitals.models import build
from vitals.models.anatomy import anatomy

HERE = Path(__file__).parent
ARCHITECTURE = "vit_small_patch16_224"
BARE = "bare forward pass"
NO_IMAGE = torch.arange(0)  # whose maps are kept head by head


class Beside(TorchFunctionMode):
    """Does something with the query and key of each attention call, and lets the call run on."""

    def __init__(self, work: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.work, self.kept = work, []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.kept.append(self.work(*args[:2]))
        return func(*args, **(kwargs or {}))


def scores(query: Tensor, key: Tensor) -> None:
    """The matrix product that no way of computing attention again can do without."""
    query @ key.mT


def probabilities(query: Tensor, key: Tensor) -> None:
    """The probabilities, which nothing is done with."""
    _softmax(query, key)


def whole_maps(roles: TokenRoles, query: Tensor, key: Tensor) -> tuple[Any, ...]:
    """All that folding keeps, from the maps of all heads of all images at once."""
    maps = _softmax(query, key)
    summaries = attention.head_summaries(maps, roles)
    return summaries, maps.mean(dim=1), maps.sum(dim=0, dtype=torch.float64)


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)


@torch.inference_mode()
def beside(model: nn.Module, batch: Tensor, work: Callable[[Tensor, Tensor], Any]) -> None:
    """A forward pass with work done beside each attention call."""
    with Beside(work):
        model(batch)


def candidates(architecture: str, images: int) -> dict[str, Callable[[], Any]]:
    """What is compared, by name."""
    torch.manual_seed(0)
    model = build.create(architecture, {}, 1000).eval()
    batch = torch.randn(images, 3, 224, 224)
    body = anatomy(model)
    roles = TokenRoles.of(body.kinds, *layout.places(body))
    taps = partial(capture.forward, model, body, roles, batch, NO_IMAGE)
    with_work = partial(beside, model, batch)
    return {
        BARE: torch.inference_mode()(partial(model, batch)),
        "with the taps": partial(taps, capture.Taps(attention=False)),
        "with the taps and attention": partial(taps, capture.Taps()),
        "with QKᵀ": partial(with_work, scores),
        "with softmax(QKᵀ)": partial(with_work, probabilities),
        "with whole maps": partial(with_work, partial(whole_maps, roles)),
    }


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--images", type=int, default=8, help="in the batch")
    parser.add_argument("--architecture", default=ARCHITECTURE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = ratios(candidates(options.architecture, options.images), BARE, options.rounds)
    table["ms an image"] = table.pop("seconds") / options.images * 1000
    table.to_csv(HERE / "folding.csv")
    (HERE / "folding.md").write_text(f"""# What attention costs beside a bare forward pass

{options.architecture} at 224 with random weights, float32, {options.images} images a batch, on one
thread. `ratio`: of the time to that of the bare forward pass, median and quartiles of
{options.rounds} rounds in random order. "With the taps and attention" keeps the six summaries of
each head of each image, the mean over heads and the sum over images; "with whole maps" keeps the
same, from the maps of all heads of all images at once. "With QKᵀ" and "with softmax(QKᵀ)" keep
nothing: the first is the floor of any way that leaves the fused kernel alone.

{markdown(table)}
{machine("torch", "timm")}.

Repeat: `python benchmarks/folding.py --rounds {options.rounds}`.
""")


if __name__ == "__main__":
    main()
