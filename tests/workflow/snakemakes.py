"""The command `snakemake`, as a user types it, and without the seconds that it takes to import it.

Both ways it is a process of its own, with its own folder, environment, output and process group,
that goes through Snakemake's own entry point; its jobs are shells and interpreters.
"""

import os
import signal
import subprocess
import sys
from functools import partial
from multiprocessing import get_context
from pathlib import Path

SNAKEMAKE = Path(sys.executable).with_name("snakemake")
# what the forks have imported already
PRELOADED = (
    "snakemake.cli",
    "vitals.fetch",
    "vitals.lost_records",
    "vitals.models.build",
    "vitals.page.template",
)
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(list(PRELOADED))


def typed(arguments, folder, environment, output=os.devnull):
    """Begin the command with an interpreter of its own.

    output: the file that takes what it says.
    """
    with open(output, "wb") as file:
        return subprocess.Popen(
            [SNAKEMAKE, *arguments],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # a shell that runs the tests in its background has them ignore it
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )


class Forked(SERVER.Process):
    """The command as a fork of a process that has imported it, and the library of this checkout.

    It takes what `typed` takes, and is waited for and ended in the same way. What libraries read
    of the environment when they are imported, it has not read.
    """

    def __init__(self, arguments, folder, environment, output=os.devnull):
        arguments = [str(argument) for argument in arguments]
        super().__init__(target=_run, args=(arguments, folder, environment, output), daemon=True)
        self.start()

    def wait(self, timeout=None):
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(SNAKEMAKE, timeout)
        return self.exitcode

    def poll(self):
        return self.exitcode

    @property
    def returncode(self):
        return self.exitcode


def _run(arguments, folder, environment, output):
    from snakemake import cli

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with open(output, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = [str(SNAKEMAKE), *arguments]
    cli.main(arguments)
