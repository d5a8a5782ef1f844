"""Images in blocks, so that a score of each of many images for each of many classes is never whole.

>>> [(block.start, block.stop) for block in score_blocks(5, 2**21)]
[(0, 2), (2, 4), (4, 5)]
"""

from collections.abc import Iterator

SCORES_AT_ONCE = 2**22  # 32 MiB in float64


def score_blocks(images: int, scores: int) -> Iterator[slice]:
    """Slices of so many images that `scores` numbers for each of them are few at once."""
    step = max(1, SCORES_AT_ONCE // scores)
    for start in range(0, images, step):
        yield slice(start, min(start + step, images))
