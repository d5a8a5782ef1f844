"""What a user asks of a study beside its run: its plan, its state, its weights, its results.

Each returns the line that it ends with.
"""

import argparse
from typing import Any

from vitals.errors import VitalsError


def plan(options: argparse.Namespace) -> str:
    """Say what a study's activations take of disk and time."""
    from vitals import device, plan
    from vitals.activations.extract import Machine

    study = _study(options)
    machine = Machine(device.choose(options.device), options.batch, options.workers)
    planned = plan.table(study, machine)
    print(planned.T.to_string(float_format="{:.3g}".format))
    return plan.verdict(study, planned)


def fetch(options: argparse.Namespace) -> str:
    """Bring published weights into this machine's caches."""
    from vitals import fetch

    lines = [print(line, flush=True) for line in fetch.fetch(_study(options))]
    return f"{len(lines)} models need no network from here on; HF_HUB_OFFLINE=1 says so"


def replication(options: argparse.Namespace) -> str:
    """Hold a study against the paper, on a page."""
    from vitals import replication

    name = "replication_beside.md" if options.beside else "replication.md"
    output = options.study / name
    statements = replication.write(options.study, options.beside, output)
    return f"{statements} statements in {output}"


def verify(options: argparse.Namespace) -> str:
    """Check stored activations against their digests."""
    from vitals.activations import store

    shards = [shard for path in options.stores for shard in store.shards(path)]
    torn = [f"{shard}: {name}" for shard in shards for name in store.torn_arrays(shard)]
    if torn:
        raise VitalsError(f"not what was written: {', '.join(torn)}")
    return f"{len(shards)} shards are what was written"


def push(options: argparse.Namespace) -> str:
    """Take results to an object storage, each when whole."""
    from vitals import object_storage

    return object_storage.push(options.folder, options.url)


def pull(options: argparse.Namespace) -> str:
    """Take results from an object storage."""
    from vitals import object_storage

    return object_storage.pull(options.url, options.folder)


def why(options: argparse.Namespace) -> str:
    """Say what a result was made from, and what differs now."""
    from vitals import status

    for line in status.why(options.file, _study(options)):
        print(line)
    return str(options.file)


def status(options: argparse.Namespace) -> str:
    """Say what of a study is fresh, stale or missing."""
    from vitals import freshness, status

    judged = list(freshness.verdicts(_study(options)))
    print(*status.lines(judged), sep="\n")
    return status.count(judged)


def clean(options: argparse.Namespace) -> str:
    """Remove what no study needs, once that is wanted."""
    from vitals import clean

    return clean.run(options.study, options.gone, options.decoded, options.yes)


def _study(options: argparse.Namespace) -> Any:
    import yaml

    from vitals.study import Study

    return Study(yaml.safe_load(options.study.read_text()))
