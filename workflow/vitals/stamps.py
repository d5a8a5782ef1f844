"""Whether the time of a file's last change tells its content."""

import os
import time

# Two writes within one tick of a file system's clock leave one time: some count in two seconds.
TICK = 2 * 10**9  # nanoseconds


def is_settled(found: os.stat_result) -> bool:
    """Whether another write would give the file another time: its last is not of this moment."""
    return time.time_ns() - found.st_mtime_ns > TICK
