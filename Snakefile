"""The vital signs of Vision Transformers, layer by layer: a table of contents.

`snakemake` runs the study of config.yaml; `snakemake --configfile studies/x.yaml` another one;
`snakemake similarity` one metric with its figure; `snakemake figures` all figures.
"""

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")


# Jobs run the library of this checkout, with the interpreter that runs the workflow.
LIBRARY = Path(workflow.basedir, "workflow")
sys.path.insert(0, str(LIBRARY))
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
    PYTHONPATH=os.pathsep.join([str(LIBRARY), os.getenv("PYTHONPATH", "")]),
)

from vitals import fetch
from vitals.catalogue import ALIGNMENT, CAPTIONED, CHECK, FIGURES, METRICS, SWEEP, SWEPT
from vitals.device import accelerators, workers
from vitals.errors import VitalsError
from vitals.estimates import Estimates
from vitals.study import Study

# A study named on the command line stands alone: no key of the default one is mixed in.
if not workflow.config_settings.configfiles:

    configfile: "config.yaml"


try:
    STUDY = Study(config, LIBRARY / "schemas" / "study.yaml")
    fetch.check(STUDY)
except VitalsError as error:
    raise WorkflowError(str(error)) from None

ESTIMATES = Estimates(STUDY)
ROOT = f"artifacts/{STUDY.name}"
MODEL = f"{ROOT}/{{model}}"
SHARDS = [f"{MODEL}/activations/{shard}.zarr/zarr.json" for shard in STUDY.shards]
ENVIRONMENT = str(Path(workflow.basedir, "envs", "vitals.yaml"))


wildcard_constraints:
    model="|".join(STUDY.models),
    metric="|".join(METRICS),
    figure="|".join(FIGURES),
    shard=r"\d+",


report: "workflow/report/study.rst"


rule all:
    input:
        f"{ROOT}/images.parquet",
        f"{ROOT}/summary.csv",
        f"{ROOT}/findings.csv",
        f"{ROOT}/index.html",
        f"{ROOT}/replication.md",
        f"{ROOT}/captions/captions.json",
        [f"{ROOT}/depth.csv"] if "depth" in STUDY.metrics else [],
        expand(f"{ROOT}/figures/{{figure}}.svg", figure=STUDY.figures),


include: "workflow/rules/runs.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/image_list.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/interventions.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/streaming.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/told.smk"
include: "workflow/rules/lost_records.smk"
