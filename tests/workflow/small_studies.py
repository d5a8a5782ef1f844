"""Two small studies, and what each of their jobs hangs on, written down by hand.

The library's own catalogue is not asked: it is what the tests judge.
"""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

METRICS = {
    "accuracy",
    "similarity", "position", "scrambling", "attention", "collapse", "probes", "geometry",
    "phases", "tradeoff", "interventions", "depth",
}  # fmt: skip
READ = {
    "phases": {"similarity"},
    "tradeoff": {"scrambling", "probes"},
    "depth": {"scrambling", "probes", "interventions"},
}
SWEPT = {"phases", "scrambling", "attention", "collapse", "interventions", "depth"}
DRAWN = {
    "overview": {
        "similarity",
        "phases",
        "scrambling",
        "attention",
        "collapse",
        "probes",
        "tradeoff",
    },
    "similarity": {"similarity", "phases"},
    "position": {"position", "similarity"},
    "scrambling": {"scrambling"},
    "attention": {"attention"},
    "collapse": {"collapse"},
    "probes": {"probes"},
    "tradeoff": {"scrambling", "probes", "tradeoff"},
    "geometry": {"geometry"},
    "interventions": {"interventions"},
    "depth": {"depth", "interventions"},
    "comparison": METRICS - {"accuracy", "position", "interventions", "depth"},
    "sweep": set(),  # of all models at once
    "correlations": set(),
    "alignment": set(),  # of activations
}
TOLD = {"summary", "findings", "captions", "replicate", "page"}  # of all numbers of a study
OPTIONS = {"embed_dim": 16, "depth": 2, "num_heads": 2}
CHEAP = {
    "bootstrap": {"samples": 100},
    "interventions": {
        "images": 1000,
        "strengths": [1],
        "controls": [],
        "kinds": ["block_skipped"],
        "repeats": 2,
    },
    "metrics": {
        "scrambling": {"folds": 2, "penalties": [0.1]},
        "collapse": {"pinv_samples": 100},
        "probes": {"folds": 2, "penalties": [1.0]},
    },
}


def digits_study():
    """Two models trained here, on digits; one has a seed of its own."""
    vit = {
        "architecture": "vit_tiny_patch16_224",
        "options": {**OPTIONS, "img_size": 8, "patch_size": 2, "in_chans": 1},
    }
    return {
        "study": "small",
        "images": {"dataset": "digits", "limit": 60},
        "models": {"vit": vit, "seeded": {**deepcopy(vit), "training": {"seed": 3}}},
        "training": {"epochs": 1, "batch": 4},
        "activations": {"shard_images": 30},
        **varied(deepcopy(CHEAP)),
    }


def varied(settings):
    """The settings with a null that has passes of its own."""
    settings["metrics"]["scrambling"]["nulls"] = ["none", "attention_off"]
    return settings


def pictures_study():
    """A checkpoint beside a model that is trained here, on class folders, in three shards."""
    vit = {
        "architecture": "vit_tiny_patch16_224",
        "options": {**OPTIONS, "img_size": 16, "patch_size": 8},
    }
    return {
        "study": "pictured",
        "images": {"dataset": "folder", "path": "pictures"},
        "models": {"own": {**deepcopy(vit), "weights": "own.pth"}, "vit": vit},
        "training": {"epochs": 1, "batch": 4},
        "activations": {"shard_images": 16},
        **deepcopy(CHEAP),
    }


def draw_checkpoint(file, seed):
    """Random weights of the model that the study of pictures loads."""
    from vitals.models import build

    torch.manual_seed(seed)
    options = pictures_study()["models"]["own"]["options"]
    model = build.create("vit_tiny_patch16_224", options, 3, (3, 16, 16))
    torch.save(model.state_dict(), file)


def draw_pictures(folder):
    """48 pictures of noise in three class folders."""
    random = np.random.default_rng(0)
    for label in "abc":
        (folder / label).mkdir(parents=True)
        for number in range(16):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:02d}.png")


@dataclass(frozen=True)
class Jobs:
    """The jobs of a study: of which models, trained or loaded, and how many shards."""

    trained: tuple[str, ...]
    loaded: tuple[str, ...]
    shards: int
    variants: tuple[str, ...] = ()

    @property
    def models(self):
        return (*self.trained, *self.loaded)

    def compared(self, metrics=METRICS, figures=None):
        """The comparisons of metrics, the figures that show them, and the summary."""
        drawn = {name for name, shown in DRAWN.items() if shown & metrics}
        if "accuracy" in metrics:  # it stands beside every number
            drawn = set(DRAWN)
        compare = {f"compare {metric}" for metric in metrics}
        return compare | {f"draw {figure}" for figure in figures or drawn} | TOLD

    def measured(self, metrics=METRICS, models=None):
        """Metrics of models, and all that hangs on them."""
        metrics = set(metrics)
        metrics |= {name for name, read in READ.items() if read & metrics}
        measure = {
            f"measure_{metric} {model}" for metric in metrics for model in models or self.models
        }
        return measure | self.compared(metrics) | self.swept(metrics)

    def swept(self, metrics=METRICS):
        """What is of the results of all models at once."""
        jobs = {"depths"} if "depth" in metrics else set()
        if metrics & SWEPT:
            jobs |= {"sweep_models", "draw sweep", "draw correlations"} | TOLD
        return jobs

    def intervened(self, models=None):
        """Passes with one change each, and all that hangs on them."""
        models = models or self.models
        return {f"intervene {model}" for model in models} | self.measured({"interventions"}, models)

    def extracted(self, models=None, shards=None):
        """Shards of models (all, without), and all that hangs on them."""
        shards = range(self.shards) if shards is None else shards
        extract = {
            f"extract {model} {shard}" for model in models or self.models for shard in shards
        }
        shown = {f"gallery {model}" for model in models or self.models}
        measured = self.measured(METRICS - {"interventions"}, models)
        return extract | shown | self.varied(models, shards) | measured | self.aligned()

    def varied(self, models=None, shards=None):
        """The passes that nulls are measured on."""
        shards = range(self.shards) if shards is None else shards
        return {
            f"vary {model} {variant} {shard}"
            for model in models or self.models
            for variant in self.variants
            for shard in shards
        }

    def passed(self, models=None):
        """All that images are passed for."""
        return self.extracted(models) | self.intervened(models)

    def aligned(self):
        """What is of the activations of all models at once."""
        return {"align", "draw alignment"} | TOLD

    def made(self, *models):
        """Models, trained or loaded, and all that hangs on them."""
        by = {**dict.fromkeys(self.trained, "train"), **dict.fromkeys(self.loaded, "load")}
        return {f"{by[model]} {model}" for model in models} | self.passed(models)

    def drawn(self, figures=DRAWN):
        return {f"draw {figure}" for figure in figures}

    def all(self):
        return {"images"} | self.made(*self.models)


DIGITS = Jobs(trained=("vit", "seeded"), loaded=(), shards=2, variants=("attention_off",))
PICTURES = Jobs(trained=("vit",), loaded=("own",), shards=3)
