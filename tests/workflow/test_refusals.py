"""A wrong input stops before the first job, in a line that names it, and touches nothing."""

import pytest
from dry_runs import stale
from snakemake.exceptions import WorkflowError

REFUSALS = {
    "an unknown key": (
        lambda study: study.update(image={}),
        "unknown key 'image': did you mean 'images'?",
    ),
    "an unknown key of a metric": (
        lambda study: study["metrics"]["probes"].update(fold=3),
        "unknown key in metrics.probes 'fold': did you mean 'folds'?",
    ),
    "an unknown metric": (
        lambda study: study["metrics"].update(simlarity={}),
        "unknown key in metrics 'simlarity': did you mean 'similarity'?",
    ),
    "an unknown model": (
        lambda study: study["models"]["vit_depth3"].update(architecture="vit_tinny_patch16_224"),
        "models.vit_depth3.architecture: unknown architecture 'vit_tinny_patch16_224': "
        "did you mean 'vit_tiny_patch16_224'?",
    ),
    "a model of another kind": (
        lambda study: study["models"]["vit_depth3"].update(architecture="resnet18"),
        "models.vit_depth3.architecture: architecture 'resnet18' is not supported",
    ),
    "an unknown dataset": (
        lambda study: study["images"].update(dataset="digit"),
        "'digit': did you mean 'digits'?",
    ),
    "a depth of 0": (
        lambda study: study["models"]["vit_depth3"]["options"].update(depth=0),
        "models.vit_depth3.options.depth = 0: 0 is less than the minimum of 1",
    ),
    "a split that leaves a class empty": (
        lambda study: study["images"].update(limit=12, test_share=0.1),
        "images.test_share = 0.1 leaves class",
    ),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_a_wrong_setting_is_named(untouched, study, wrong):
    spoil, message = REFUSALS[wrong]
    spoil(study)
    with pytest.raises(WorkflowError) as refusal:
        stale(untouched.folder, study)
    assert sum(message in line for line in str(refusal.value).splitlines()) == 1
    assert not (untouched.folder / "artifacts").exists()


def test_the_command_says_so_in_one_line(untouched, study):
    spoil, message = REFUSALS["an unknown key"]
    spoil(study)
    process = untouched.run(study)
    assert process.returncode != 0
    assert sum(message in line for line in process.stdout.splitlines()) == 1
    assert "Traceback" not in process.stdout
    assert not (untouched.folder / "artifacts").exists()


@pytest.mark.parametrize(
    "target", ["simlarity", "artifacts/quick/vit_depth5/metrics/similarity.nc"]
)
def test_a_target_that_does_not_exist_is_named(untouched, study, target):
    process = untouched.run(study, target)
    assert process.returncode != 0
    assert target in process.stdout
    assert "Traceback" not in process.stdout
    assert not (untouched.folder / "artifacts").exists()
