"""Snakemake asked in this process: what a run would do, in tenths of a second, and small studies.

A study is made by the commands that its rules give, run here one after the other, so that none of
them pays for starting an interpreter; its records are those of `snakemake --touch`.
"""

import contextlib
import shlex
from pathlib import Path

import torch
import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

from vitals import cli

REPOSITORY = Path(__file__).parents[2]


def stale(folder, study, targets=(), cores=1):
    """The jobs of a dry run of a study (a dict): a set of "rule wildcard ..."."""
    with _planned(folder, study, "dryrun", targets=set(targets), cores=cores) as dag:
        jobs = [job for job in dag.needrun_jobs(exclude_finished=False) if job.output]
    return {_named(job) for job in jobs}


def make(folder, study, ends=()):
    """Make all that a study makes, and Snakemake's records of it.

    Nothing reads a figure or the summary: empty files stand for those that `ends` does not name.
    """
    with _planned(folder, study, "dryrun") as dag:
        jobs = [job for level in dag.toposorted() for job in level if job.output]
        commands = [job.shellcmd.split(" 2>&1 | ")[0] for job in jobs]
    with contextlib.chdir(folder), one_thread():
        for job, command in zip(jobs, commands, strict=True):
            for output in job.output:
                Path(output).parent.mkdir(parents=True, exist_ok=True)
            if job.rule.name in ("draw", "summary") and _named(job) not in ends:
                for output in job.output:
                    Path(output).touch()
            else:
                cli.main(shlex.split(command)[3:])  # behind "python -m vitals"
    touch(folder, study)


@contextlib.contextmanager
def one_thread():
    """Compute as a job of one core does: the last digits of a sum depend on how it is cut."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def touch(folder, study):
    """Snakemake's records of all that a study makes, as of what lies in a folder."""
    with _planned(folder, study, "touch", forceall=True):
        pass


def _named(job):
    return " ".join([job.rule.name, *job.wildcards_dict.values()])


@contextlib.contextmanager
def _planned(folder, study, executor, targets=frozenset(), forceall=False, cores=1):
    """The graph of jobs of a run, after it."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    with SnakemakeApi(OutputSettings(quiet={Quietness.RULES, Quietness.PROGRESS})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=cores),
            config_settings=ConfigSettings(configfiles=[file]),
            snakefile=REPOSITORY / "Snakefile",
            workdir=folder,
        )
        dag = workflow.dag(DAGSettings(targets=set(targets), forceall=forceall))
        dag.execute_workflow(executor=executor)
        yield workflow._workflow.dag
