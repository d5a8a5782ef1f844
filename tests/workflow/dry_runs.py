"""Snakemake in this process: what a run would do, in tenths of a second, and runs of small studies.

Snakemake runs as it always does, but for its shell: the command that a rule gives is run here, so
that none pays for starting an interpreter.
"""

import contextlib
import io
import shlex
from collections import Counter
from importlib import import_module
from pathlib import Path

import torch
import yaml
from snakemake.api import SnakemakeApi
from snakemake.scheduling import greedy
from snakemake.settings.enums import Quietness
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    ResourceSettings,
    SchedulingSettings,
)
from snakemake.utils import format as formatted

from vitals import cli

REPOSITORY = Path(__file__).parents[2]
SHELL = import_module("snakemake.shell")  # of the same name as the class in it
# the other scheduler solves a linear program before each job, where there is one core to give
GREEDY = {
    "scheduling_settings": SchedulingSettings(scheduler="greedy"),
    "scheduler_settings": greedy.SchedulerSettings(),
}
# commands whose results nothing that is measured reads
ENDS = ("figure ", "depths ", "summary ", "findings ", "captions ", "replicate ", "page ")


def stale(folder, study, targets=(), cores=1):
    """The jobs of a dry run of a study (a dict): a set of "rule wildcard ..."."""
    with _executed(folder, study, "dryrun", targets, cores) as dag:
        jobs = [job for job in dag.needrun_jobs(exclude_finished=False) if job.output]
    return {" ".join([job.rule.name, *job.wildcards_dict.values()]) for job in jobs}


def by_rule(jobs):
    """The number of jobs of each rule."""
    return dict(Counter(job.split()[0] for job in jobs))


def make(folder, study, targets=(), ends=()):
    """Make results of a study, all of them without targets; what the commands said, a line each.

    Nothing that is measured reads a figure, the summary or what is told of it: empty files stand
    for those that `ends` does not name ("figure probes", "summary").
    """
    said, made_ends = [], tuple(f"{end} " for end in ends)

    class Shell(SHELL.shell):
        """Runs a command in this process, and keeps its log."""

        def __new__(cls, command, *args, **kwargs):
            command = formatted(command, stepout=2).split(" 2>&1 | ")[0]
            command = command.removeprefix("python -m vitals ")
            if command.startswith(ENDS) and not command.startswith(made_ends):
                for output in formatted("{output}", stepout=2).split():
                    Path(output).touch()
                return
            spoken = io.StringIO()
            with contextlib.redirect_stdout(spoken), contextlib.redirect_stderr(spoken):
                cli.main(shlex.split(command))
            Path(formatted("{log}", stepout=2)).write_text(spoken.getvalue())
            said.extend(spoken.getvalue().splitlines())

    bash, SHELL.shell = SHELL.shell, Shell
    try:
        with _one_thread(), _executed(folder, study, "local", targets):
            return said
    finally:
        SHELL.shell = bash


@contextlib.contextmanager
def _one_thread():
    """Compute as a job of one core does: the last digits of a sum depend on how it is cut."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _executed(folder, study, executor, targets, cores=1):
    """The graph of jobs of a run, after it."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=cores),
            config_settings=ConfigSettings(configfiles=[file]),
            snakefile=REPOSITORY / "Snakefile",
            workdir=folder,
        )
        # what was interrupted is made again, as the profiles have it
        dag = workflow.dag(DAGSettings(targets=set(targets), force_incomplete=True))
        dag.execute_workflow(executor=executor, **GREEDY)
        workflow._workflow.globals["AT_WORK"].close()  # the run is over, and this process is not
        yield workflow._workflow.dag
