"""What a study says of a statement: supported, contradicted, or not testable here, and by what."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vitals.findings.evidence import Evidence, Missing, Number

SUPPORTED, CONTRADICTED, NOT_TESTABLE = "supported", "contradicted", "not testable here"


@dataclass(frozen=True)
class Finding:
    """The verdict of one subject (a model, or two) on a statement, with its numbers."""

    subject: str
    verdict: str
    numbers: tuple[Number, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Statement:
    """A statement of the paper, where it makes it, the rule that judges it, and what to add."""

    name: str
    claim: str
    source: str
    rule: str
    judge: Callable[[Evidence], list[Finding]]
    beside: str = ""


def decided(
    subject: str, numbers: Iterable[Number], supported: bool, contradicted: bool
) -> Finding:
    """Contradicted where anything contradicts, supported where all supports, else undecided."""
    if contradicted:
        return Finding(subject, CONTRADICTED, tuple(numbers))
    if supported:
        return Finding(subject, SUPPORTED, tuple(numbers))
    return Finding(subject, NOT_TESTABLE, tuple(numbers), "the intervals do not decide")


def has_sign(subject: str, number: Number, sign: int) -> Finding:
    """Supported where the interval lies on that side of zero, contradicted on the other."""
    return decided(subject, [number], number.sign == sign, number.sign == -sign)


def each(subjects: Iterable[str], judge: Callable[[str], Finding]) -> list[Finding]:
    """The verdict of each subject; one whose numbers are missing cannot be tested, and says why."""
    return [tested(subject, lambda subject=subject: judge(subject)) for subject in subjects]


def tested(subject: str, judge: Callable[[], Finding]) -> Finding:
    """One verdict, or the reason why there is none."""
    try:
        return judge()
    except Missing as missing:
        return Finding(subject, NOT_TESTABLE, reason=str(missing))
