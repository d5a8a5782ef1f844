"""What the paper (arXiv 2511.21635) reports of its three models on ImageNet-1k, and nothing more.

They come from summaries of the paper, not from its tables, and hold for its checkpoints.
"""

VIT_S, VIT_B, VIT_L = "ViT-S/16", "ViT-B/16", "ViT-L/16"
# Centred similarity before and after the cliff, of taps "embed" and "position".
CLIFF = {VIT_S: (0.020, -0.002), VIT_L: (0.021, -0.005)}
PLATEAU_LENGTH = {VIT_S: 6, VIT_B: 12, VIT_L: 14}  # layers
ISI_BAND = {VIT_B: (0.004, 0.009)}  # "under their normalization"
LATER_TRADEOFF = {(VIT_L, VIT_B): 10}  # layers, the first model after the second
BETTER_GEOMETRY = (VIT_B, VIT_L)  # at the last layer, the first model than the second
