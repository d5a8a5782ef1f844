"""What does a model lose when one part of its forward pass is changed?

>>> import numpy as np, xarray as xr
>>> correct = np.array([[1.0, 1, 1, 0], [1, 0, 1, 0]])  # at strength 1 and at 0
>>> dataset = xr.Dataset(
...     {
...         "correct": ("image", correct[0]),
...         "probability": ("image", correct[0]),
...         "correct_by_strength": (("strength", "image"), correct),
...         "probability_by_strength": (("strength", "image"), correct),
...     },
...     coords={"strength": [1.0, 0.0]},
... )
>>> result = compute(dataset, bootstrap_samples=10)
>>> result["top1"].mean("image").item()
0.75
>>> result["top1_change_by_strength"].mean("image").values
array([ 0.  , -0.25])
"""

import xarray as xr

from vitals.metrics import bootstrap
from vitals.metrics.results import PAPER, RECONSTRUCTED, absences, describe, mark_absent

SOURCE = f"{PAPER} names the interventions; the protocol is a stated choice"
OWN = "counted on the shapes of the model"
SCORES = {
    "top1": ("correct", "share of images taken for their class"),
    "probability": ("probability", "probability of the class of the image"),
}
COSINE = "centered_cosine"
CHANGED = {
    "strength": "with the position embedding at a multiple of itself",
    "control": "with another field in the place of the position embedding",
    "place": "with one change at a place of the stream",
}
NOT_HERE = "there is no such change at this place"


def compute(
    dataset: xr.Dataset, *, bootstrap_samples: int = 1000, bootstrap_seed: int = 0
) -> xr.Dataset:
    """Top-1, probability of the class and similarity under each change, and what it takes of them.

    dataset: the scores of each image: `correct` and `probability` (image), `centered_cosine` (tap,
    image); the same with `_by_strength` (strength, ...), the position embedding times so much,
    `_by_control` (control, ...), another field in its place, and `_by_place` (kind, place, ...),
    one change at a place of the stream; `exit_compute` (place).
    Returns `top1` and `probability` (image), each with `_by_strength`, `_by_control` and
    `_by_place` in front of `image`, and their differences from the model as it is,
    `top1_change_by_…` and `probability_change_by_…`; the curves `centered_cosine` (tap, image),
    `centered_cosine_by_strength` and `_by_control`; and of each change at a place
    `centered_cosine_change_by_place` (kind, place, image), the difference at the last tap of the
    stream. Each has `_low` and `_high` of its mean over images; of a difference they are paired. A
    kind that does not act at a place is NaN there. `exit_compute` is passed on.
    What the dataset lacks is absent, with its reason.
    Source: arXiv 2511.21635 names the interventions; the protocol is a stated choice.
    """
    dataset = dataset.compute()  # small: a number an image and change
    result = xr.Dataset(coords=dataset.coords)
    for name, reason in absences(dataset).items():
        mark_absent(result, _named(name), reason)
    interval = (bootstrap_samples, bootstrap_seed)
    for name, (source, long_name) in SCORES.items():
        if source not in dataset:
            continue
        _add(result, name, dataset[source], long_name, interval)
        for by, how in CHANGED.items():
            if f"{source}_by_{by}" not in dataset:
                continue
            changed = dataset[f"{source}_by_{by}"]
            _add(result, f"{name}_by_{by}", changed, f"{long_name}, {how}", interval)
            change = (changed - dataset[source]).transpose(*changed.dims)
            said = f"{long_name}, {how}, less that of the model as it is"
            _add(result, f"{name}_change_by_{by}", change, said, interval)
    if COSINE in dataset:
        _add_curves(result, dataset, interval)
    if "exit_compute" in dataset:
        long_name = "share of the operations that an exit after a block takes"
        result["exit_compute"] = describe(
            dataset["exit_compute"], long_name, "1", RECONSTRUCTED, OWN
        )
    return result


def _add_curves(result: xr.Dataset, dataset: xr.Dataset, interval: tuple[int, int]) -> None:
    long_name = "mean cosine between centred patch tokens"
    _add(result, COSINE, dataset[COSINE], long_name, interval)
    for by in ("strength", "control"):
        if f"{COSINE}_by_{by}" in dataset:
            name = f"{COSINE}_by_{by}"
            _add(result, name, dataset[name], f"{long_name}, {CHANGED[by]}", interval)
    if f"{COSINE}_by_place" in dataset:
        last = {"tap": -1, "drop": True}
        change = dataset[f"{COSINE}_by_place"].isel(**last) - dataset[COSINE].isel(**last)
        said = f"{long_name} at the last tap, {CHANGED['place']}, less that of the model as it is"
        change = change.transpose("kind", "place", "image")
        _add(result, f"{COSINE}_change_by_place", change, said, interval)


def _add(
    result: xr.Dataset, name: str, values: xr.DataArray, long_name: str, interval: tuple[int, int]
) -> None:
    described = describe(values.drop_attrs(), long_name, "1", RECONSTRUCTED, SOURCE)
    result[name] = described.assign_attrs(undefined=NOT_HERE)
    bootstrap.add_interval(result, name, bootstrap.mean_draws(values, *interval))


def _named(absent: str) -> str:
    """What is absent, by the name that it has in the result."""
    return {source: name for name, (source, _) in SCORES.items()}.get(absent, absent)
