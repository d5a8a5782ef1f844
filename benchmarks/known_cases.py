"""Data whose answer is known in closed form, and what each metric makes of it.

A case takes a storage type and gives the numbers that the metric finds.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "metrics"))

from activation_datasets import attention_dataset, layer_names, pooled_dataset, tokens_dataset
from collapse_features import EACH, RADIUS, SIGMA, C, D, collapsed, rotation, simplex
from probe_features import CLASSES, clusters
from scrambled import autoregressive, gaussian, measure, mixed, orthogonal, partly_averaged
from vitals.metrics import (
    attention,
    collapse,
    geometry,
    phases,
    position,
    probes,
    similarity,
    tradeoff,
)

QUICK = {"bootstrap_samples": 5}
N, T, SIDE = 196, 197, 14
Found = dict[str, float]


@dataclass(frozen=True)
class Case:
    """expected: by variable; tolerance: absolute, of float32 and of float16 storage."""

    metric: str
    name: str
    expected: Found
    find: Callable[[type], Found]
    tolerance: tuple[float, float] = (1e-5, 1e-3)


def scalars(result: xr.Dataset) -> Found:
    """Each variable's mean over whatever dims it has."""
    return {str(name): float(values.mean()) for name, values in result.data_vars.items()}


# Similarity, position and geometry, of tokens (image, token, channel)


def random_tokens(images: int = 3, tokens: int = N, channels: int = 32) -> np.ndarray:
    """Isotropic tokens, the same at each call."""
    return np.random.default_rng(0).standard_normal((images, tokens, channels))


def opposite(first: int) -> np.ndarray:
    """Two opposite clusters, of `first` tokens and of the others."""
    sign = np.where(np.arange(N) < first, 1.0, -1.0)
    return np.broadcast_to(sign[:, None] * np.ones(8), (2, N, 8))


def with_outliers() -> np.ndarray:
    """Six tokens of 196 at 30 times the norm."""
    tokens = random_tokens(images=20, channels=384)
    tokens[:, :6] = 30
    return tokens


def with_zeros() -> np.ndarray:
    """Four tokens without a direction."""
    tokens = random_tokens()
    tokens[:, :4] = 0
    return tokens


def alike(tokens: np.ndarray) -> Callable[[type], Found]:
    """What similarity finds."""
    return lambda storage: scalars(
        similarity.compute(tokens_dataset([np.asarray(tokens).astype(storage)]), **QUICK)
    )


def shifted(storage: type) -> Found:
    """What one vector, added to every token, changes."""
    shift = np.random.default_rng(1).standard_normal(32)
    plain, moved = (alike(random_tokens() + s)(storage) for s in (0, shift))
    return {name: moved[name] - plain[name] for name in ("centered_cosine", "squared_cosine")}


def dominated(storage: type) -> Found:
    """Positions of three times the norm of the tokens that they are added to."""
    tokens = random_tokens(images=1)
    dataset = tokens_dataset([tokens.astype(storage)])
    dataset["position_embedding"] = ("token", "channel"), (3 * tokens[0]).astype(storage)
    return scalars(position.compute(dataset, **QUICK))


def isotropic(dimensions: int) -> Callable[[type], Found]:
    """Tokens of equal variance in a random subspace of 32 channels."""
    tokens = random_tokens(60, 49, dimensions) @ rotation(32)[:dimensions]
    return lambda storage: scalars(
        geometry.compute(tokens_dataset([tokens.astype(storage)]), **QUICK)
    )


def of_features(*taps: np.ndarray, storage: type) -> xr.Dataset:
    """The geometry of features (image, channel), one array a tap."""
    layers = [{"cls": x.astype(storage)} for x in taps]
    pooled = pooled_dataset(layers, np.zeros(len(taps[0]), int))
    tokens = tokens_dataset([np.ones((len(taps[0]), 2, 2))] * len(taps))
    return geometry.compute(tokens, pooled=pooled, **QUICK)


def turned(storage: type) -> Found:
    """CKA of features and of the same, turned, scaled and shifted."""
    x = random_tokens(1, 200, 12)[0]
    result = of_features(x, 3 * x @ rotation(12) + 1, storage=storage)
    return {"cka": result["cka"][0, 0, 1].item()}


def independent(storage: type) -> Found:
    """CKA of two independent clouds of 2000 images in 60 channels."""
    result = of_features(*random_tokens(2, 2000, 60), storage=storage)
    return {"cka": result["cka"][0, 0, 1].item()}


def cube(dimensions: int) -> Callable[[type], Found]:
    """The intrinsic dimension of a uniform cube of 5000 points."""
    points = np.random.default_rng(0).uniform(size=(5000, dimensions))
    return lambda storage: scalars(of_features(points, storage=storage)[["intrinsic_dimension"]])


# Phases and trade-off, of curves over depth


def three_phases(storage: type) -> Found:
    """Cliff, plateau and climb on 26 taps."""
    t = np.arange(26.0)
    curve = 0.02 - 0.022 * np.minimum(t, 1) + 0.03 * np.maximum(t - 15, 0)
    images = (curve[:, None] * np.ones(8)).astype(storage)
    dataset = xr.Dataset(
        {"centered_cosine": (("layer", "image"), images)}, coords={"layer": layer_names(26)}
    )
    return scalars(phases.compute(dataset, **QUICK))


def traded(layers: int, at: float) -> Callable[[type], Found]:
    """Information lost as the task is learnt, half of both `at` a layer."""
    task = np.interp(np.arange(layers + 1), [0, at, layers], [0, 0.5, 1])
    return lambda storage: scalars(
        tradeoff.compute(
            xr.Dataset({"r2_all": ("layer", 1 - task), "accuracy": ("layer", task)}).astype(storage)
        )
    )


# Scrambling, of 16 tokens


def recovered(embed: np.ndarray, layer: np.ndarray) -> Callable[[type], Found]:
    """What is recovered of the embedding from the layer."""
    names = ("r2_self", "r2_all", "isi")
    return lambda storage: dict(zip(names, measure(embed, layer, storage=storage), strict=True))


def scrambling_cases() -> list[Case]:
    """Independent tokens, mixed in ways that can be undone or not."""
    z, n, a = gaussian(1500), 16, 0.7
    partly = ((1 - a) + a / n) ** 2 / ((1 - a) ** 2 + 2 * a * (1 - a) / n + a**2 / n)
    mixing, correlated = orthogonal(n), autoregressive(2500)
    known = {
        "identity": (z, z, 1, 1),
        "tokens permuted": (z, np.roll(z, 5, axis=1), 0, 1),
        "total collapse": (z, np.broadcast_to(z.mean(1, keepdims=True), z.shape), 1 / n, 1 / n),
        "0.7 of each token its image's mean": (z, mixed(partly_averaged(a), z), partly, 1),
        "noise of deviation 1": (z, z + gaussian(1500, seed=1), 1 / 2, 1 / 2),
        "orthogonal mixing": (z, mixed(mixing, z), np.square(np.diag(mixing)).mean(), 1),
        "AR(0.9) and noise 0.7, no mixing": (
            correlated,
            correlated + 0.7 * gaussian(2500, seed=1),
            0.671,
            0.840,
        ),
    }
    return [
        Case(
            "scrambling",
            name,
            {"r2_self": alone, "r2_all": of_all, "isi": of_all - alone},
            recovered(embed, layer),
            (0.012, 0.012),  # of R² over 600 test images of 96 numbers each
        )
        for name, (embed, layer, alone, of_all) in known.items()
    ]


# Attention, of 197 tokens

UNIFORM, IDENTITY = np.full((T, T), 1 / T), np.eye(T)
STAR = np.tile(np.eye(T)[0], (T, 1))
CYCLIC = np.roll(np.eye(T), 1, axis=1)
TWO_BLOCKS = np.zeros((T, T))
TWO_BLOCKS[0, 0] = 1
TWO_BLOCKS[1:99, 1:99] = TWO_BLOCKS[99:, 99:] = 1 / 98


def attended(*blocks: np.ndarray) -> Callable[[type], Found]:
    """What attention finds in the last of these blocks, and over all."""

    def find(storage: type) -> Found:
        result = attention.compute(attention_dataset(blocks, storage=storage), **QUICK)
        return scalars(result.isel(block=-1))

    return find


def agreement(consensus: float, js: float, gap: float) -> Found:
    """The three measures of consensus."""
    return {"consensus": consensus, "consensus_js": js, "consensus_gap": gap}


def attention_cases() -> list[Case]:
    """Five graphs, and a hub that fades."""
    graphs = {
        "uniform": (
            UNIFORM,
            agreement(1, 1, 1)
            | {"cls_inflow": 1, "cls_pagerank": 1 / T, "cls_stationary": 1 / T}
            | {"entropy": 1, "cls_outflow_entropy": 1, "rollout_cls": 1 / 2, "distance": 7.280764},
        ),
        "star onto [CLS]": (
            STAR,
            agreement(1, 1, 1)
            | {"cls_inflow": T, "cls_pagerank": 0.850761, "cls_stationary": 1}
            | {"entropy": 0, "cls_outflow_entropy": 0, "rollout_cls": T / 2},
        ),
        "identity": (IDENTITY, agreement(0, 0, 0) | {"distance": 0, "rollout_cls": 0}),
        "cyclic shift": (CYCLIC, agreement(0, 0, 0) | {"cls_stationary": 1 / T}),
        "two blocks of 98 patches": (TWO_BLOCKS, agreement(0.4974, 0.8687, 0)),
    }
    cases = [
        Case("attention", name, known, attended(graph), (5e-5, 5e-5))
        for name, (graph, known) in graphs.items()
    ]
    fading = [s * STAR + (1 - s) * IDENTITY for s in np.linspace(1, 0, 5)]
    slope = Case("attention", "a star that fades", {"marginalization": -T}, attended(*fading))
    return [*cases, slope]


# Collapse and probes, of features (image, channel)


def collapsing(x: np.ndarray, label: np.ndarray, **parameters) -> Callable[[type], Found]:
    """What collapse finds at the last tap."""

    def find(storage: type) -> Found:
        dataset = pooled_dataset([{"cls": x.astype(storage)}], label, names=["norm"], **parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of widths at which a variant means little
            result = collapse.compute(dataset, pinv_samples=2, **QUICK)
        return scalars(result) | {"nc2_etf_floor": result.attrs["nc2_etf_floor"]}

    return find


def collapse_cases() -> list[Case]:
    """A simplex with isotropic noise, C = 20, D = 64, r = 3, σ = 0.5."""
    unit = (np.eye(C) - 1 / C) / np.sqrt(1 - 1 / C)
    signal, noise = np.split(rotation()[: 2 * C], 2)
    sampled = RADIUS * unit @ signal + SIGMA * np.sqrt(D / EACH) * unit @ noise
    simplices = dict.fromkeys(("nc2_equinorm", "nc2_equiangular", "nc2_etf_gap"), 0.0)
    known = {"nc1_pinv": 0.5013889, "nc1_cdnv": 0.8444444, **simplices, "nc2_etf_excess": 0}
    aligned = {"head_weight": 0.1 * simplex(), "head_bias": np.zeros(C)}
    tolerance = (1e-5, 0.02)
    return [
        Case("collapse", "simplex and noise", known, collapsing(*collapsed()), tolerance),
        Case(
            "collapse",
            "simplex whose means are sampled",
            {"nc1_quotient": 1.7777778},
            collapsing(*collapsed(sampled)),
            tolerance,
        ),
        Case(
            "collapse",
            "weights in proportion to the means",
            {"nc3_alignment": 1, "nc3_distance": 0},
            collapsing(*collapsed(), **aligned),
            tolerance,
        ),
        *(
            Case(
                "collapse",
                f"1000 classes, width {channels}",
                {"nc2_etf_floor": known},
                collapsing(*many_classes(channels)),
                (1e-4, 1e-4),
            )
            for channels, known in ((384, 0.8718), (768, 0.4964), (1024, 0.0))
        ),
    ]


def many_classes(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images of each of 1000 classes."""
    generator = np.random.default_rng(0)
    means = generator.standard_normal((1000, channels))
    return collapsed(means, generator.standard_normal((1000, 2, channels)))


def probed(x: np.ndarray, label: np.ndarray) -> Callable[[type], Found]:
    """What the probes read from every other image."""
    split = np.where(np.arange(len(label)) % 2, "test", "fit")
    return lambda storage: scalars(
        probes.compute(
            pooled_dataset([{"cls": x.astype(storage)}], label, split=split),
            penalties=(0.01, 1.0),
            **QUICK,
        )
    )


def moved_by_a_constant(storage: type) -> Found:
    """What a constant, added to the features, changes."""
    x, label = clusters(apart=1.5)
    plain, moved = (probed(x + offset, label)(storage) for offset in (0.0, 1.0))
    return {name: moved[name] - plain[name] for name in ("accuracy", "nll")}


def probe_cases() -> list[Case]:
    """Clusters, chance, and a [CLS] that is the same for every image."""
    names = ("accuracy", "ridge_accuracy", "knn_accuracy")
    x, label = clusters(images=2000)
    chance = probed(x, np.random.default_rng(1).permutation(label))
    few = np.random.default_rng(0).choice(CLASSES, 300, p=(0.4, 0.3, 0.2, 0.1))
    majority = np.mean(few[1::2] == np.bincount(few[::2]).argmax())
    one = np.tile(np.random.default_rng(0).standard_normal(8), (300, 1))
    sampling = 4 * np.sqrt(0.25 * 0.75 / 1000)
    apart = probed(*clusters(apart=40))
    return [
        Case("probes", "separable clusters", dict.fromkeys(names, 1), apart, (0, 0)),
        Case("probes", "shuffled labels", dict.fromkeys(names, 0.25), chance, (sampling,) * 2),
        Case("probes", "constant added", {"accuracy": 0, "nll": 0}, moved_by_a_constant),
        Case(
            "probes",
            "one vector for every image",
            dict.fromkeys(names, majority),
            probed(one, few),
            (0, 0),
        ),
    ]


def token_cases() -> list[Case]:
    """Similarity and position."""
    floor = -1 / (N - 1)
    identical = random_tokens(tokens=1).repeat(N, axis=1)
    one_hot = np.broadcast_to(np.eye(N), (2, N, N))
    known = {
        "identical tokens": (identical, {"cosine": 1, "common_share": 1}),
        "orthonormal tokens": (
            one_hot,
            {"cosine": 0, "centered_cosine": floor, "squared_cosine": floor**2}
            | {"common_share": 1 / N},
        ),
        "opposite clusters, 147 and 49": (opposite(147), {"centered_cosine": 0.246154}),
        "opposite clusters, 176 and 20": (opposite(176), {"centered_cosine": 0.631606}),
        "opposite clusters, 98 and 98": (
            opposite(98),
            {"centered_cosine": floor, "squared_cosine": 1},
        ),
        "four tokens of zero norm": (with_zeros(), {"zero_tokens": 4}),
    }
    return [
        *(Case("similarity", name, v, alike(tokens)) for name, (tokens, v) in known.items()),
        Case(
            "similarity",
            "one vector added: change",
            {"centered_cosine": 0, "squared_cosine": 0},
            shifted,
        ),
        Case(
            "similarity",
            "six tokens of 30 times the norm",
            {"centered_cosine": 0.39, "robust_centered_cosine": floor, "outlier_share": 6 / N},
            alike(with_outliers()),
            (0.01, 0.01),
        ),
        Case("position", "3 z", {"dominance": 3, "dominance_centered": 3}, dominated),
    ]


def curve_cases() -> list[Case]:
    """Phases and trade-off."""
    slopes = {"slope_cliff": -0.022, "slope_plateau": 0, "slope_climb": 0.03, "cliff_depth": 0.022}
    knots = {"cliff_end": 1, "climb_start": 15, "plateau_length": 14, "pieces": 3}
    relative = {"plateau_length_relative": 14 / 25}
    crossings = {
        (12, 6): {"crossing": 6, "crossing_relative": 0.5, "onset": 1},
        (12, 8): {"crossing": 8, "crossing_relative": 8 / 12},
        (24, 18): {"crossing": 18, "crossing_relative": 18 / 24},
    }
    return [
        Case("phases", "three phases on 26 taps", slopes | knots | relative, three_phases),
        *(
            Case("tradeoff", f"half at {at} of {layers}", v, traded(layers, at), (1e-4, 0.02))
            for (layers, at), v in crossings.items()
        ),
    ]


def geometry_cases() -> list[Case]:
    """Dimensions and alignment."""
    ranks = {"effective_rank": 4, "participation_ratio": 4}
    # Three deviations. Float16 has too few numbers for 5000 places on a line.
    cubes = {1: (0.98, 0.063, np.inf), 2: (2.06, 0.117, 0.117), 5: (4.68, 0.303, 0.303)}
    return [
        Case("geometry", "isotropic in 4 dimensions of 32", ranks, isotropic(4), (0.04, 0.12)),
        Case("geometry", "X and 3XQ + 1", {"cka": 1}, turned),
        Case("geometry", "independent Gaussians", {"cka": 0}, independent, (0.01, 0.01)),
        *(
            Case("geometry", f"cube, {d}-dimensional", {"intrinsic_dimension": v}, cube(d), allowed)
            for d, (v, *allowed) in cubes.items()
        ),
    ]


def cases() -> list[Case]:
    """All of them, metric by metric."""
    return [
        *token_cases(),
        *curve_cases(),
        *scrambling_cases(),
        *attention_cases(),
        *collapse_cases(),
        *probe_cases(),
        *geometry_cases(),
    ]
