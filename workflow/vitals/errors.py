"""The one kind of error that a user can mend: what was expected, what was found, what to do."""

import difflib
from collections.abc import Iterable


class VitalsError(ValueError):
    """A wrong input, said in one line that names it."""


def one_line(error: Exception) -> str:
    """What another library's error says, however many lines it takes.

    >>> one_line(RuntimeError("sizes differ:\\n\\thead.weight"))
    'sizes differ: head.weight'
    """
    return " ".join(str(error).split())


def unknown(kind: str, name: str, known: Iterable[str]) -> VitalsError:
    """An error for a name that is not one of the known, with the nearest that is.

    >>> print(unknown("metric", "simlarity", ["similarity", "phases"]))
    unknown metric 'simlarity': did you mean 'similarity'? (known: phases, similarity)
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    listed = ", ".join(known) if len(known) <= 20 else f"{', '.join(known[:20])}, ..."
    return VitalsError(f"unknown {kind} '{name}': {hint}(known: {listed})")
