"""Snakemake as it runs on the cluster of the tests, which is small and keeps no accounts.

It asks SLURM each half second, where the plugin waits ten seconds longer each time; and it finds no
`sacct`, which Debian installs with the rest, and to which the plugin falls back where a controller
does not answer.
"""

import sys

import snakemake_executor_plugin_slurm as plugin
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

SECONDS = 0.5

if __name__ == "__main__":
    RemoteExecutor.next_seconds_between_status_checks = property(
        lambda executor: SECONDS, lambda executor, seconds: None
    )
    plugin.is_query_tool_available = lambda tool: tool != "sacct"
    main(sys.argv[1:])
