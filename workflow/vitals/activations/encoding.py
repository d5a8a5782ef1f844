"""How values become the bytes of a chunk: rounding, compression, and the checksum at the end.

One of the modules that know Zarr: encoding, chunks and store (writing), shards (reading).
"""

from dataclasses import dataclass

import numpy as np
from numcodecs import BitRound
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec

from vitals.errors import VitalsError, unknown

PLAIN = "none"
LEVELS = {"lz4": 5, "zstd": 1}  # of Blosc: above these the ratio hardly grows and the time does


@dataclass(frozen=True)
class Encoding:
    """How the long arrays of a shard are stored.

    codec: "none", "lz4" or "zstd" (Blosc with bitshuffle), which lose nothing; keep_bits: how many
    bits of the mantissa the arrays that may lose some are rounded to, None for all of them.
    Raises VitalsError for another codec, and for keep_bits below 1.
    """

    codec: str = PLAIN
    keep_bits: int | None = None

    def __post_init__(self) -> None:
        if self.codec not in (PLAIN, *LEVELS):
            raise unknown("codec", self.codec, (PLAIN, *LEVELS))
        if self.keep_bits is not None and self.keep_bits < 1:
            raise VitalsError(f"keep_bits is {self.keep_bits}: expected 1 or more, or none")

    def codecs(self, dtype: np.dtype) -> list[BytesBytesCodec]:
        """What Zarr applies to the bytes of a chunk, in order; the CRC-32C is always the last."""
        if self.codec == PLAIN:
            return [Crc32cCodec()]
        level = LEVELS[self.codec]
        shuffled = {"typesize": dtype.itemsize, "shuffle": "bitshuffle"}
        return [BloscCodec(cname=self.codec, clevel=level, **shuffled), Crc32cCodec()]

    def check(self, name: str, dtype: np.dtype) -> None:
        """Raises VitalsError where values of this type have fewer bits than are to be kept."""
        if self.keep_bits is None:
            return
        available = np.finfo(dtype).nmant if dtype.kind == "f" else 0
        if self.keep_bits > available:
            raise VitalsError(
                f"{name}: keep_bits is {self.keep_bits}, and the mantissa of {dtype} has "
                f"{available} bits: set {available} or fewer, or none"
            )

    def rounded(self, name: str, values: np.ndarray) -> np.ndarray:
        """The values, to the nearest that needs no more than `keep_bits` bits, ties to even.

        Raises VitalsError for a value that the rounding takes beyond the largest of its type.
        """
        if self.keep_bits is None:
            return values
        nearest = BitRound(self.keep_bits).encode(values).view(values.dtype)
        if not np.isfinite(nearest).all():
            raise VitalsError(
                f"{name}: a value is beyond {values.dtype} when rounded to {self.keep_bits} bits: "
                "store it as float32, or keep all bits"
            )
        return nearest
