"""What ran in the tests of SLURM: every job, when, on which GPU, through a cancel and a crash.

Repeat: `pytest tests/cluster --basetemp=/tmp/cluster; python benchmarks/cluster.py /tmp/cluster`.
"""

import sys
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "workflow"))

from one_node import Cluster

RUNS = {
    "The whole study": "cluster0",
    "`scancel` while a shard was being written": "test_a_cancelled*0/again",
    "The controller killed while a shard was being written": "test_a_contr*0/again",
}


def table(cluster):
    """Rows of a Markdown table: one a job of SLURM."""
    ran = sorted(cluster.ran(), key=lambda one: one.begin)
    start = ran[0].begin
    yield "| job of SLURM | GPU | from | to | commands, and what the first and the last made |"
    yield "|---|---|---|---|---|"
    jobs = {job: list(found) for job, found in groupby(sorted(ran, key=_job), key=_job)}
    for found in sorted(jobs.values(), key=lambda found: found[0].begin):
        made = [one.output.removeprefix("artifacts/small/") for one in found]
        named = made[0] if len(made) == 1 else f"{len(made)}: {made[0]} ... {made[-1]}"
        ends = [one.end for one in found if one.end is not None]
        end = f"{max(ends) - start:.0f} s" if len(ends) == len(found) else "cancelled"
        job, gpu, begin = found[0].job, found[0].gpu, found[0].begin - start
        yield f"| {job} | {gpu} | {begin:.0f} s | {end} | {named} |"


def _job(one):
    return int(one.job)


def main(folder):
    for title, pattern in RUNS.items():
        (found,) = Path(folder).glob(pattern)
        print(f"## {title}\n")
        print(*table(Cluster(found)), sep="\n", end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1])
