"""What a job is asked to be given on a cluster: memory and minutes, from the sizes of the study.

They are ceilings with room to spare, not measurements: a job that is killed for want of either is
asked for again with twice as much. Neither changes a result.
"""

from functools import cached_property
from math import ceil

from vitals.catalogue import ALIGNMENT, INTERVENE, METRICS, POOLED, TOKENS
from vitals.model_sizes import ModelSize, size_of
from vitals.study import Study

SIZES = ".sizes.json"
# An interpreter with torch, its libraries for an accelerator among them, before any work.
BASE = 3e9  # bytes
LEAST_MINUTES, MOST_MINUTES = 10, 24 * 60  # clusters refuse what is longer than their limit
# What slow machines do in a second: some cores or a small accelerator, and a busy shared disk.
OPERATIONS = 2e11
BYTES = 1e8
# Times that a metric goes over what it reads, with the fits of folds, penalties and null models.
READINGS = {"scrambling": 20, "probes": 200, "geometry": 20, "collapse": 40, ALIGNMENT: 40}
# Metrics that hold a tap and what it is compared with; others read a few images at a time.
HOLDING = ("scrambling", "geometry")
# Shards of all models may be one array of jobs, which asks for the same for each.
SHARDED = ("extract", "stream", "vary")


class Estimates:
    """Of each stage of a study: `megabytes` of memory and `minutes`, doubled with each attempt."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def megabytes(self, stage: str, name: str = "", model: str = "", attempt: int = 1) -> int:
        """Memory of a job in MB (10⁶ bytes).

        stage: as for `Study.spec`; name: of the metric, where there is one; model: all of them,
        where none is given.
        """
        needed = BASE + max(self._bytes(stage, name, one) for one in self._of(model))
        return ceil(needed / 1e6) * 2 ** (attempt - 1)

    def minutes(self, stage: str, name: str = "", model: str = "", attempt: int = 1) -> int:
        """Minutes that a job may take."""
        together = max if stage in SHARDED else sum
        seconds = together(self._seconds(stage, name, one) for one in self._of(model))
        return min(MOST_MINUTES, LEAST_MINUTES + ceil(seconds / 60)) * 2 ** (attempt - 1)

    def _of(self, model: str) -> list[str]:
        return [model] if model else list(self.study.models)

    @cached_property
    def _sizes(self) -> dict[str, ModelSize]:
        study = self.study
        classes, kept = len(study.listing.attrs["classes"]), study.folder / SIZES
        return {name: size_of(model, classes, kept) for name, model in study.models.items()}

    def _bytes(self, stage: str, name: str, model: str) -> float:
        size = self._sizes[model]
        weights = 4 * size.parameters
        match stage:
            case "train":  # prepared images; weights, gradients, two moments, activations
                return 4 * self._images * size.pixels + 8 * weights
            case "load":
                return 3 * weights
            case "extract" | "stream" | "vary":
                prepared = self._shard * size.pixels  # which a variant may shuffle, all at once
                return 3 * weights + _in_flight(size) + prepared * (stage == "vary")
            case _ if stage == INTERVENE:  # states of all images, at three places at most
                return 3 * weights + 12 * self._intervened * size.tokens * size.channels
            case "metric":
                held = 4 * self._token_bytes(size) if name in HOLDING else 0.0
                # features in float64, by folds
                return held + 16 * self._pooled_bytes(size) * (POOLED in METRICS[name].tiers)
            case "align":
                return 8 * self._pooled_bytes(size) * size.taps
        return 0.0

    def _seconds(self, stage: str, name: str, model: str) -> float:
        size = self._sizes[model]
        passing = 2 * size.parameters * size.tokens / OPERATIONS  # an image, once forward
        match stage:
            case "train":  # a step backward is two forward
                return 3 * passing * self.study.recipe(model)["epochs"] * self._images
            case _ if stage == INTERVENE:
                runs = self.study.changed_passes(size.taps)
                return self._intervened * passing * (runs + size.taps)
            case "extract" | "stream" | "vary":
                shard = self._shard
                tokens = 4 * size.taps * size.tokens * size.channels  # bytes of an image
                return shard * (passing + tokens / BYTES)
            case "metric" if METRICS[name].tiers:
                whole = TOKENS in METRICS[name].tiers
                tap = self._token_bytes(size) if whole else self._pooled_bytes(size)
                return READINGS.get(name, 4) * tap * size.taps / BYTES
            case "align":
                return READINGS[ALIGNMENT] * self._pooled_bytes(size) * size.taps / BYTES
        return 0.0

    @property
    def _images(self) -> int:
        return len(self.study.listing)

    @property
    def _shard(self) -> int:
        return min(self._images, self.study.settings["activations"]["shard_images"])

    @property
    def _intervened(self) -> int:
        return min(self._images, self.study.settings["interventions"]["images"] or self._images)

    def _token_bytes(self, size: ModelSize) -> float:
        """Of one tap of all images whose tokens are kept, in float32."""
        limit = self.study.settings["activations"]["token_images"]  # of each of two splits
        images = self._images if limit is None else min(2 * limit, self._images)
        return 4 * images * size.tokens * size.channels

    def _pooled_bytes(self, size: ModelSize) -> float:
        """Of [CLS] and mean patch of all images at one tap, in float32."""
        return 4 * self._images * 2 * size.channels


def _in_flight(size: ModelSize) -> float:
    """Bytes of the chunks of every tap and block that are filled and written, and of batches."""
    return 4 * size.taps * 2**24 + 16 * 256 * size.pixels
