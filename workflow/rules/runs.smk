"""A lock that a killed run left behind needs no --unlock; one of a run that is alive stays."""

from vitals import runs

if workflow.is_main_process:
    os.environ[runs.MARK] = str(Path(".snakemake", "runs").absolute())
    # held until this process ends
    AT_WORK = runs.join(Path(os.environ[runs.MARK]), Path(".snakemake", "locks"))
