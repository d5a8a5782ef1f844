"""The profile of a cluster knows every rule: it has a GPU, is in a group, or needs neither."""

import re
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
SLURM = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text())
RULES = {
    rule
    for file in (REPOSITORY / "workflow" / "rules").glob("*.smk")
    for rule in re.findall(r"^rule (\w+):", file.read_text(), re.MULTILINE)
}
TARGETS = {"figures", "models", "activations", "sweep"}
ON_CPU = {"images", "load", "align", "merge"}  # each a job
OF_MODEL = "of_{model}"


def test_each_rule_asks_for_a_gpu_or_is_in_a_group_or_is_known_to_need_neither():
    on_gpu, grouped = set(SLURM["set-resources"]), set(SLURM["groups"])
    assert on_gpu | grouped | ON_CPU | TARGETS == RULES
    assert not on_gpu & grouped
    assert all(asked["gpu"] == 1 for asked in SLURM["set-resources"].values())


def test_all_short_metrics_of_a_model_are_one_job():
    of_model = [rule for rule, group in SLURM["groups"].items() if group == OF_MODEL]
    assert SLURM["group-components"][OF_MODEL] == len(of_model)


def test_a_task_that_outruns_the_first_of_its_array_cannot_fail():
    assert "slurm-array-jobs" not in SLURM


def test_no_job_asks_for_more_cores_than_one_may_have():
    assert max(SLURM["set-threads"].values()) <= SLURM["cores"]
