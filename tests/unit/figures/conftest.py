"""Results of two tiny models, as the real metrics compute them and as netCDF gives them back."""

from importlib import import_module
from itertools import product

import numpy as np
import pytest

from activation_datasets import (
    every_tap,
    intervened_dataset,
    layer_names,
    pooled_dataset,
    tokens_dataset,
)
from vitals.catalogue import ALIGNMENT, METRICS, SWEEP
from vitals.metrics import alignment, comparison, files, interventions, results, sweep

IMAGES, PATCHES, CHANNELS, HEADS, CLASSES = 60, 9, 6, 2, 3
QUICK = {"bootstrap_samples": 20}
PARAMS = {
    "scrambling": {**QUICK, "folds": 2, "penalties": (0.1,), "sweeps": 20},
    "probes": {**QUICK, "folds": 2, "penalties": (1.0,)},
    "tradeoff": {},
    "depth": {},
}
MODELS = {"small": 4, "deep": 6}  # blocks


def tiers(blocks, prefix=("cls",), names=None, depth=None):
    """The token tier and the pooled tier of a walk that gathers the class, tap by tap."""
    generator = np.random.default_rng(blocks)
    names = names or [*layer_names(blocks + 2), "norm"]
    label = np.arange(IMAGES) % CLASSES
    split = np.where(np.arange(IMAGES) < 2 * IMAGES // 3, "fit", "test")
    size = len(prefix) + PATCHES

    walk = generator.standard_normal((len(names), IMAGES, size, CHANNELS)).cumsum(axis=0)
    signal = np.eye(CLASSES, CHANNELS)[label][:, None]  # (image, 1, channel)
    tokens = walk + np.arange(len(names))[:, None, None, None] * signal
    positions = 0.5 * tokens[0, 0]
    tokens[1] = tokens[0] + positions
    tokens[:2, :, : len(prefix)] = 1.0  # a learned token is the same for every image
    weights = generator.uniform(size=(blocks, IMAGES, size, size))
    attention = weights / weights.sum(axis=-1, keepdims=True)

    described = {"label": label, "split": split, "names": names}
    token_tier = tokens_dataset(tokens.astype(np.float32), prefix=prefix, depth=depth, **described)
    token_tier["attention"] = ("block", "image", "query", "key"), attention
    token_tier["position_embedding"] = ("token", "channel"), positions

    features = {"patch_mean": tokens[:, :, len(prefix) :].mean(axis=2)}
    if prefix:
        features = {"cls": tokens[:, :, 0], **features}
    taps = [{name: feature[tap] for name, feature in features.items()} for tap in range(len(names))]
    pooled = pooled_dataset(
        taps,
        **described,
        head_weight=np.eye(CLASSES, CHANNELS),
        head_bias=np.zeros(CLASSES),
        norm_scale=np.ones(CHANNELS),
        norm_shift=np.zeros(CHANNELS),
    ).assign_coords(depth=token_tier["depth"])
    if prefix:
        inflow = generator.uniform(0.5, 2.0, (blocks, IMAGES, HEADS))
        pooled["attention_cls_inflow"] = ("block", "image", "head"), inflow
    consensus = generator.uniform(size=(blocks, IMAGES, HEADS))
    pooled["attention_consensus"] = ("block", "image", "head"), consensus
    return token_tier, pooled


def lacking(parts, reasons):
    """The same tiers without some variables, each of which says why."""
    return [
        part.drop_vars(list(reasons), errors="ignore").assign_attrs(absent=reasons)
        for part in parts
    ]


def intervened_of(tokens):
    """Scores under each change, as passes of the model that these tokens are of would give them."""
    names = [str(name) for name in tokens["layer"].values]
    blocks = sum(name.startswith("block.") and name.count(".") == 1 for name in names)
    dataset = intervened_dataset(blocks, images=IMAGES, seed=blocks)
    if "cls" not in tokens["token_kind"].values:
        dataset = dataset.sel(kind=[k for k in dataset["kind"].values if "cls" not in k])
        for kind in ("cls_mean", "cls_other", "cls_zero", "to_cls_cut", "from_cls_cut"):
            results.mark_absent(dataset, kind, "the model has no [CLS] token")
    return dataset


def planted_sweep(of_one):
    """The sweep of six models of three depths, which differ from one in their answers alone."""
    swept = {}
    for blocks, seed in product((3, 5, 8), range(2)):
        scores = intervened_dataset(blocks, images=IMAGES, seed=10 * blocks + seed)
        answers = interventions.compute(scores, **QUICK)
        swept[f"depth{blocks}_{seed}"] = {**of_one, "interventions": answers}
    about = {name: {"parameters": len(name) * place} for place, name in enumerate(swept)}
    return sweep.compute(swept, about, **QUICK)


def measured(parts):
    """The result of every metric, by name, from both tiers."""
    available = dict(zip(("tokens", "pooled"), parts, strict=True))
    found = {}
    for name, metric in METRICS.items():
        if metric.passed:
            inputs = [intervened_of(parts[0])]
        elif metric.tiers:
            inputs = [available[tier] for tier in metric.tiers]
        else:
            inputs = [results.joined({part: found[part] for part in metric.results})]
        arguments = dict(zip(("dataset", "pooled"), inputs, strict=False))
        compute = import_module(f"vitals.metrics.{name}").compute
        found[name] = compute(**arguments, **PARAMS.get(name, QUICK))
    return found


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A function that writes a result and reads it back."""
    folder = tmp_path_factory.mktemp("results")

    def write_and_read(result):
        path = folder / f"{len(list(folder.iterdir()))}.nc"
        files.write(result, path, spec="{}", code="code")
        return files.read(path)

    return write_and_read


@pytest.fixture(scope="session")
def pooled():
    """The pooled tier of every model that was measured, by name."""
    return {}


@pytest.fixture(scope="session")
def by_model(stored, pooled):
    """Results by model, then metric."""
    parts = {model: tiers(blocks) for model, blocks in MODELS.items()}
    pooled |= {model: tier for model, (_, tier) in parts.items()}
    return {
        model: {name: stored(result) for name, result in measured(part).items()}
        for model, part in parts.items()
    }


@pytest.fixture(scope="session")
def without_cls(stored, pooled):
    """Results by metric of "patches", a model that has no [CLS] token."""
    parts = tiers(4, ())
    pooled["patches"] = parts[1]
    return {name: stored(result) for name, result in measured(parts).items()}


@pytest.fixture(scope="session")
def families(stored, pooled):
    """Results by model, then metric, of models that differ in all that models can differ in.

    clip: a norm after positions, taps within blocks, a distillation token, no classifier, no
    attention; rotary: no [CLS], no position embedding. The token tier holds fewer images.
    """
    talking, headless = "its heads talk to each other", "the model has no classifier"
    clip_reasons = {
        "attention": talking,
        "attention_cls_inflow": talking,
        "attention_consensus": talking,
        "head_weight": headless,
        "head_bias": headless,
    }
    clip = lacking(tiers(2, ("cls", "distillation"), *every_tap(2)), clip_reasons)
    rotary = lacking(tiers(3, ()), {"position_embedding": "its positions are rotary"})
    models = {"plain_with_a_long_name": tiers(4), "clip": clip, "rotary": rotary}
    pooled |= {model: tier for model, (_, tier) in models.items()}
    return {
        model: {
            name: stored(result)
            for name, result in measured((tokens.isel(image=slice(55)), tier)).items()
        }
        for model, (tokens, tier) in models.items()
    }


@pytest.fixture(scope="session")
def compared(stored, pooled):
    """A function from results by model to what compares them, by metric."""

    def differences(models):
        found = {
            metric: comparison.compute(
                {model: found[metric] for model, found in models.items()},
                metric=metric,
                bootstrap_samples=20,
            )
            for metric in comparison.HEADLINES
        }
        found[SWEEP] = planted_sweep(next(iter(models.values())))
        found[ALIGNMENT] = alignment.compute({m: pooled[m] for m in models}, bootstrap_samples=20)
        return {name: stored(result) for name, result in found.items()}

    return differences
