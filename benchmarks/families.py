"""How far what ViTals sees of each family of Vision Transformers is from what timm computes.

    python benchmarks/families.py

prints a table: small models with random parameters, float32, on the CPU. "attention": the maps
caught at the fused kernel against those of timm's own code without it; "states": the taps after
each block and norm against timm's `forward_intermediates` and `forward_features`; "head": the head
applied to the last state against the model's output; "output": the model's output with and without
the capture; "position": what is added between the first taps against the stored embedding.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "activations"))

from families import table

COLUMNS = ("attention", "state", "head", "logits", "position")
TITLES = ("family", "tokens", "taps", "attention", "states", "head", "output", "position")


def shown(difference: float) -> str:
    """0 where nothing differs, a dash where there is nothing to compare."""
    if math.isnan(difference):
        return "–"
    return f"{difference:.0e}" if difference else "0"


print("| " + " | ".join(TITLES) + " |")
print("|---|---|" + "--:|" * 6)
for name, found in table():
    cells = [name, found.tokens, str(found.taps)]
    cells += [shown(getattr(found, column)) for column in COLUMNS]
    print("| " + " | ".join(cells) + " |")
