"""Snakemake, asking SLURM each half second: the plugin waits ten seconds longer each time."""

import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

SECONDS = 0.5

if __name__ == "__main__":
    RemoteExecutor.next_seconds_between_status_checks = property(
        lambda executor: SECONDS, lambda executor, seconds: None
    )
    main(sys.argv[1:])
