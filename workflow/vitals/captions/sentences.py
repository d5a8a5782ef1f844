"""What the caption of each figure says: what is shown, then the numbers of each model or pair."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vitals.captions.numbers import FEATURES, LAST_BLOCK, Told

# Of each figure, what it shows. Numbers have their 95 % bootstrap intervals in brackets.
SHOWN = {
    "overview": "The vital signs of every model over relative depth, and where they turn.",
    "similarity": "How alike the patch tokens of an image are over depth: as they are, and after "
    "the mean patch of the image is taken away.",
    "position": "How large positions are beside patches, and the fall of centred similarity there.",
    "scrambling": "How much of the patch embeddings a layer gives back, R², from the same token "
    "and from all; their difference is the scrambling index.",
    "attention": "How much patches look at [CLS], in uniform shares, and how alike their rows are.",
    "collapse": "Neural collapse: spread within classes over that between them (NC1), distance of "
    "the class means from a simplex (NC2), their cosine to the classifier (NC3).",
    "probes": "Accuracy on test images of linear probes on [CLS] and on the mean patch.",
    "tradeoff": "Information about the patch embeddings, R², against probe accuracy, layer by "
    "layer.",
    "geometry": "How many dimensions tokens fill, and which taps hold the same geometry.",
    "interventions": "What each change of the forward pass takes of the accuracy, over its "
    "strength or the place where it begins.",
    "depth": "How deep each model need be: what an exit with a probe of its own loses after each "
    "block, and the share of the operations that it saves.",
    "sweep": "What changes with depth or width over models that differ in nothing else: accuracy, "
    "its differences between levels, and the lengths of the phases.",
    "correlations": "Rank correlations over the models of a sweep: of accuracy with what may go "
    "with it, and of all with all.",
    "alignment": "Linear CKA of the mean patch between all taps of two models.",
    "comparison": "Differences between models over the same images, at equal relative depth.",
}
POSITION, ATTENTION_OFF = "position", "attention_off"
# Of each figure, what is said of each model: a name, a variable, a tap, and a feature where it is
# not one of those that all have.
OF_MODELS = {
    "overview": (
        ("probe accuracy at the last block", "accuracy", LAST_BLOCK),
        ("climb starts at depth", "climb_start", ""),
        ("information and task cross at depth", "crossing", ""),
    ),
    "similarity": (
        ("centred cosine at embed", "centered_cosine", "embed"),
        ("at position", "centered_cosine", "position"),
        ("at the last block", "centered_cosine", LAST_BLOCK),
        ("climb starts at depth", "climb_start", ""),
        ("plateau", "plateau_length", ""),
    ),
    "position": (
        ("dominance", "dominance", ""),
        ("dominance, both centred", "dominance_centered", ""),
    ),
    "scrambling": (
        ("R² from all tokens at the last block", "r2_all", LAST_BLOCK),
        ("from the same", "r2_self", LAST_BLOCK),
        ("index", "isi", LAST_BLOCK),
        ("above its noise-matched null", "isi_excess", LAST_BLOCK),
    ),
    "attention": (
        ("attention to [CLS] at the last block", "cls_inflow", LAST_BLOCK),
        ("slope over relative depth", "marginalization", ""),
        ("consensus at the last block", "consensus", LAST_BLOCK),
    ),
    "collapse": (
        ("NC1 at the last block", "nc1_quotient", LAST_BLOCK),
        ("NC2 above its floor", "nc2_etf_excess", LAST_BLOCK),
        ("NC3", "nc3_alignment", "norm"),
        ("accuracy of the nearest class mean", "ncc_accuracy", LAST_BLOCK),
    ),
    "probes": (
        ("accuracy at the last block", "accuracy", LAST_BLOCK),
        ("mean patch less [CLS]", "accuracy_gap", LAST_BLOCK),
    ),
    "tradeoff": (
        ("crossing at depth", "crossing", ""),
        ("relative to depth", "crossing_relative", ""),
        ("onset", "onset", ""),
        ("knee", "knee", ""),
    ),
    "geometry": (
        ("effective rank at the last block", "effective_rank", LAST_BLOCK),
        ("within an image", "image_effective_rank", LAST_BLOCK),
        ("intrinsic dimension", "intrinsic_dimension", LAST_BLOCK),
    ),
    "interventions": (
        ("accuracy as it is", "top1", ""),
        ("its change without positions", "top1_change_by_strength", "", "0"),
        ("with [CLS] of another image at position", "top1_change_by_place", POSITION, "cls_other"),
        ("after the last block", "top1_change_by_place", LAST_BLOCK, "cls_other"),
        ("without attention in the last block", "top1_change_by_place", LAST_BLOCK, ATTENTION_OFF),
    ),
    "depth": (
        ("of blocks", "blocks", ""),
        ("useful depth", "useful_depth", ""),
        ("recommended depth", "recommended_depth", ""),
        ("accuracy kept", "accuracy_kept", ""),
        ("operations saved", "compute_saved", ""),
    ),
}
# The same of each pair of models, of figures of differences.
OF_PAIRS = {
    "alignment": (("CKA of the embeddings", "cka", "embed", "patch_mean,embed"),),
    "comparison": (
        ("plateau", "plateau_length_difference", "", ""),
        ("crossing", "crossing_difference", "", "r2_all,cls"),
        ("crossing relative to depth", "crossing_relative_difference", "", "r2_all,cls"),
    ),
}
INTERVALS = "Brackets: 95 % bootstrap intervals over images."


def of_figure(name: str, told: Told, models: Sequence[str]) -> str:
    """The caption of a figure, as reStructuredText; of one that is not known here, its name."""
    lines = [
        f"- **{model}**: "
        + "; ".join(
            f"{label} {told.number(model, variable, tap, feature or FEATURES)}"
            for label, variable, tap, *feature in said
        )
        for model in models
        if (said := OF_MODELS.get(name, ()))
    ]
    lines += [
        f"- **{pair}**: "
        + "; ".join(
            f"{label} {told.number(pair, variable, tap, [feature])}"
            for label, variable, tap, feature in said
        )
        for pair in told.pairs()
        if (said := OF_PAIRS.get(name, ()))
    ]
    shown = SHOWN.get(name, f"Figure {name}.")
    return "\n".join([shown, "", *([*lines, "", INTERVALS, ""] if lines else [])])


def of_study(study: str, findings: Mapping[str, Sequence[str]] = MappingProxyType({})) -> str:
    """What the report says first: which study, and the verdicts on the paper's statements.

    findings: by claim, "subject: verdict" of each of its subjects.
    """
    lines = [f"- {claim} {'; '.join(verdicts)}." for claim, verdicts in findings.items()]
    about = (
        f"Study *{study}*. Figures are under Results, each with its numbers; `summary.csv` holds "
        "every number, `findings.csv` the numbers and the rule behind each verdict, and "
        f"`artifacts/{study}/index.html` is a page to explore them."
    )
    return "\n".join([about, "", "What it shows of the paper's statements:", "", *lines, ""])
