"""The paper's statements, each with the rule by which a study supports or contradicts it.

Each rule reads intervals, not values: what an interval does not decide is not testable here.
"""

from collections.abc import Callable

from vitals.findings.evidence import Evidence, Missing, Number
from vitals.findings.verdicts import (
    NOT_TESTABLE,
    Finding,
    Statement,
    decided,
    each,
    has_sign,
    tested,
)
from vitals.metrics.published_values import (
    BETTER_GEOMETRY,
    CLIFF,
    ISI_BAND,
    LATER_TRADEOFF,
    PLATEAU_LENGTH,
    VIT_B,
    VIT_L,
)

ABSTRACT = "abstract"
REPORTED = "reported of the paper's own models"
PROBED = ("cls", "patch_mean")
CROSSED = ("r2_all,cls", "r2_all,patch_mean")
ACCURACY, INFLOW, CONSENSUS, ISI, NC1 = (
    f"{name}_difference_relative"
    for name in ("accuracy", "cls_inflow", "consensus", "isi", "nc1_quotient")
)
CROSSING, TOP1 = "crossing_difference", "top1_difference"
CERTAIN, REFUTED = 0.95, 0.05  # shares of resamples
RESOLUTION = 0.0005  # of the scrambling index: smaller differences are no diffusion
ABOUT = 2  # layers, of "about 10 layers"
ROUNDED = 0.0005  # of a value given with three decimals
LAST_DIGIT = 0.5  # of a whole number


def deeper_performs_worse(evidence: Evidence) -> list[Finding]:
    def judge(deep: str, shallow: str) -> Finding:
        return has_sign(f"{deep} - {shallow}", _performance(evidence, deep, shallow), -1)

    return _by_depth(evidence, judge)


def _performance(evidence: Evidence, first: str, second: str) -> Number:
    """How much better the first model is: by its own classifier, else by a probe."""
    try:
        return evidence.difference(first, second, TOP1, metric="accuracy")
    except Missing:
        return evidence.difference(first, second, ACCURACY, PROBED)


def three_phases(evidence: Evidence) -> list[Finding]:
    def judge(model: str) -> Finding:
        cliff, plateau, climb = (
            evidence.number(model, f"slope_{name}") for name in ("cliff", "plateau", "climb")
        )
        share = _share_of_three_pieces(evidence, model)
        flatter = abs(plateau.value) < min(abs(cliff.value), abs(climb.value))
        return decided(
            model,
            [cliff, plateau, climb, share],
            supported=cliff.sign < 0 < climb.sign and share.value >= CERTAIN and flatter,
            contradicted=cliff.sign > 0 or climb.sign < 0 or share.value <= REFUTED,
        )

    return each(evidence.models, judge)


def _share_of_three_pieces(evidence: Evidence, model: str) -> Number:
    """A share of resamples has no interval of its own; a curve of few taps was tried with fewer."""
    found = evidence.table
    rows = found[(found["model"] == model) & (found["variable"] == "pieces_share")]
    three = rows.loc[rows["feature"] == "3", "value"]
    if three.empty:
        raise Missing("BIC was not asked about three pieces: too few taps")
    name = "share of resamples with three pieces"
    return Number(name, float(three.iloc[0]), float("nan"), float("nan"), "1")


def cls_is_marginalized(evidence: Evidence) -> list[Finding]:
    def judge(model: str) -> Finding:
        return has_sign(model, evidence.number(model, "marginalization"), -1)

    return each(evidence.models, judge)


def consensus_rises(evidence: Evidence) -> list[Finding]:
    def judge(model: str) -> Finding:
        first, *_, last = evidence.curve(model, "consensus")
        return decided(model, [first, last], last.low > first.high, last.high < first.low)

    return each(evidence.models, judge)


def better_is_less_central(evidence: Evidence) -> list[Finding]:
    def judge(deep: str, shallow: str) -> Finding:
        ahead = _performance(evidence, deep, shallow).value > 0
        better, worse = (deep, shallow) if ahead else (shallow, deep)
        accuracy = _performance(evidence, better, worse)
        inflow = evidence.difference(better, worse, INFLOW)
        consensus = evidence.difference(better, worse, CONSENSUS)
        numbers, pair = (accuracy, inflow, consensus), f"{better} - {worse}"
        if accuracy.sign != 1:
            return Finding(pair, NOT_TESTABLE, numbers, "neither is surely better")
        return decided(
            pair,
            numbers,
            supported=inflow.sign < 0 < consensus.sign,
            contradicted=inflow.sign > 0 or consensus.sign < 0,
        )

    pairs = [(a, b) for i, a in enumerate(evidence.models) for b in evidence.models[i + 1 :]]
    found = [tested(f"{a} - {b}", lambda a=a, b=b: judge(a, b)) for a, b in pairs]
    return found or [Finding("", NOT_TESTABLE, reason="it needs two models")]


def tradeoff_is_later(evidence: Evidence) -> list[Finding]:
    def judge(deep: str, shallow: str) -> Finding:
        crossing = evidence.difference(deep, shallow, CROSSING, CROSSED)
        return has_sign(f"{deep} - {shallow}", crossing, 1)

    return _by_depth(evidence, judge)


def extra_layers_diffuse(evidence: Evidence) -> list[Finding]:
    def judge(deep: str, shallow: str) -> Finding:
        isi = evidence.difference(deep, shallow, ISI)
        accuracy = _performance(evidence, deep, shallow)
        return decided(
            f"{deep} - {shallow}",
            [isi, accuracy],
            supported=isi.low > RESOLUTION,
            contradicted=isi.high < -RESOLUTION or accuracy.sign > 0,
        )

    return _by_depth(evidence, judge)


def paper_cliff(evidence: Evidence) -> list[Finding]:
    def judge(name: str) -> Finding:
        model = evidence.of_paper(name)
        numbers = [
            evidence.number(model, "centered_cosine", layer=tap) for tap in ("embed", "position")
        ]
        ends = zip(numbers, CLIFF[name], strict=True)
        near = [number.meets(end - ROUNDED, end + ROUNDED) for number, end in ends]
        return decided(f"{model} ({name})", numbers, all(near), not all(near))

    return each(CLIFF, judge)


def paper_plateau(evidence: Evidence) -> list[Finding]:
    def judge(name: str) -> Finding:
        model = evidence.of_paper(name)
        length, reported = evidence.number(model, "plateau_length"), PLATEAU_LENGTH[name]
        near = length.meets(reported - LAST_DIGIT, reported + LAST_DIGIT)
        return decided(f"{model} ({name})", [length], near, not near)

    return each(PLATEAU_LENGTH, judge)


def paper_isi_band(evidence: Evidence) -> list[Finding]:
    def judge(name: str) -> Finding:
        model = evidence.of_paper(name)
        largest = max(evidence.curve(model, "isi"), key=lambda number: number.value)
        near = largest.meets(*ISI_BAND[name])
        return decided(f"{model} ({name})", [largest], near, not near)

    return each(ISI_BAND, judge)


def paper_later_tradeoff(evidence: Evidence) -> list[Finding]:
    def judge() -> Finding:
        ((late, early), layers), *_ = LATER_TRADEOFF.items()
        models = evidence.of_paper(late), evidence.of_paper(early)
        crossing = evidence.difference(*models, CROSSING, CROSSED)
        near = crossing.meets(layers - ABOUT, layers + ABOUT)
        return decided(" - ".join(models), [crossing], near, not near)

    return [tested(f"{VIT_L} - {VIT_B}", judge)]


def paper_final_geometry(evidence: Evidence) -> list[Finding]:
    def judge() -> Finding:
        models = [evidence.of_paper(name) for name in BETTER_GEOMETRY]
        return has_sign(" - ".join(models), evidence.difference(*models, NC1, PROBED), -1)

    return [tested(" - ".join(BETTER_GEOMETRY), judge)]


def _by_depth(evidence: Evidence, judge: Callable[[str, str], Finding]) -> list[Finding]:
    """The verdict of each pair of models of different depth."""
    found = [
        tested(f"{deep} - {shallow}", lambda deep=deep, shallow=shallow: judge(deep, shallow))
        for deep, shallow in evidence.by_depth()
    ]
    return found or [Finding("", NOT_TESTABLE, reason="it needs two models of different depth")]


PERFORMANCE = "top-1 accuracy (where there is no classifier, probe accuracy at the last tap)"
DEPTH_OF_S_AND_B = (
    "The paper's S and B both have 12 blocks: from S to B the width changes, not the depth."
)
STATEMENTS = (
    Statement(
        "deeper_performs_worse",
        "Deeper Vision Transformers often perform worse than shallower ones.",
        ABSTRACT,
        f"The deeper model's {PERFORMANCE} less the shallower's: supported where its interval is "
        "below zero, contradicted where it is above.",
        deeper_performs_worse,
        f"{DEPTH_OF_S_AND_B} And whether deeper is worse depends on the checkpoint: top-1 at 224 "
        "is B 81.07, L 79.66 in torchvision; S 81.4, B 84.5, L 85.9 in timm's augreg 21k→1k; "
        "S 81.4, B 83.8, L 84.8 in DeiT-III.",
    ),
    Statement(
        "three_phases",
        "Representations evolve over depth in three phases: Cliff, Plateau, Climb.",
        ABSTRACT,
        "Of the three-piece fit of centred similarity: supported where the interval of the first "
        "slope is below zero and that of the third above, the second slope is the smallest, and "
        "BIC asks for three pieces in at least 95 % of resamples; contradicted where the first or "
        "third slope has the opposite sign, or BIC asks for three pieces in at most 5 %.",
        three_phases,
    ),
    Statement(
        "cls_is_marginalized",
        "The [CLS] token, designed as a hub, is progressively marginalized.",
        ABSTRACT,
        "Slope of the patches' attention to [CLS] over relative depth: supported where its "
        "interval is below zero, contradicted where it is above.",
        cls_is_marginalized,
    ),
    Statement(
        "consensus_rises",
        "Patch tokens come to a distributed consensus.",
        ABSTRACT,
        "Attention consensus at the last block and at the first: supported where the interval of "
        "the last is above that of the first, contradicted where it is below.",
        consensus_rises,
    ),
    Statement(
        "better_is_less_central",
        "Better performance goes with a marginal [CLS] and with consensus among patches.",
        ABSTRACT,
        f"Of two models that differ in {PERFORMANCE}, the better less the worse at the last "
        "block: supported where attention to [CLS] is below zero and consensus above, "
        "contradicted where either is on the other side.",
        better_is_less_central,
    ),
    Statement(
        "tradeoff_is_later",
        "In a deeper model information is traded for the task in later layers.",
        ABSTRACT,
        "Depth, in layers, at which information and task cross, the deeper model's less the "
        "shallower's: supported where its interval is above zero, contradicted where it is below.",
        tradeoff_is_later,
    ),
    Statement(
        "extra_layers_diffuse",
        "Additional layers diffuse information rather than improve the task.",
        ABSTRACT,
        "The deeper model less the shallower: contradicted where the interval of the scrambling "
        f"index at the last tap is below −0.0005 or that of {PERFORMANCE} above zero; else "
        "supported where that of the index is above 0.0005, which is what it resolves.",
        extra_layers_diffuse,
    ),
    Statement(
        "paper_cliff",
        "At the cliff centred similarity falls from .020 to −.002 (S) and from .021 to −.005 (L).",
        REPORTED,
        "Supported where the intervals at taps embed and position meet both values, to the last "
        "digit given; contradicted where one does not.",
        paper_cliff,
    ),
    Statement(
        "paper_plateau",
        "The plateau is 6 (S), 12 (B) and 14 (L) layers long.",
        REPORTED,
        "Supported where the interval of the plateau's length meets the value ± ½, else "
        "contradicted.",
        paper_plateau,
        DEPTH_OF_S_AND_B,
    ),
    Statement(
        "paper_isi_band",
        "The scrambling index of B is about .004 to .009.",
        REPORTED,
        "Supported where the interval of the largest index over blocks meets the band, else "
        "contradicted.",
        paper_isi_band,
        "The band is under the paper's normalization, which may differ from ours.",
    ),
    Statement(
        "paper_later_tradeoff",
        "The trade-off comes about 10 layers later in L than in B.",
        REPORTED,
        "Supported where the interval of the difference in crossing meets 8 to 12 layers, else "
        "contradicted.",
        paper_later_tradeoff,
    ),
    Statement(
        "paper_final_geometry",
        "B has a better final geometry than L.",
        REPORTED,
        "NC1 at the last tap, B less L: supported where its interval is below zero, contradicted "
        "where it is above.",
        paper_final_geometry,
    ),
)
