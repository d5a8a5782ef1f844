"""The studies of the repository name models that there are, in cohorts of one recipe."""

from pathlib import Path

import pytest
import yaml

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import timm

from vitals.models import build, checkpoints, published
from vitals.models.anatomy import anatomy
from vitals.models.registry import TORCHVISION

STUDIES = Path(__file__).parents[2] / "studies"


def models(study):
    return yaml.safe_load((STUDIES / f"{study}.yaml").read_text())["models"]


MODELS = {
    f"{study}-{name}": model
    for study in ("imagenet_vit_sbl", "cohorts")
    for name, model in models(study).items()
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_one_that_is_published_and_that_has_taps(name):
    architecture, options = MODELS[name]["architecture"], MODELS[name].get("options", {})
    assert MODELS[name]["weights"] == "pretrained"
    if not architecture.startswith(TORCHVISION):
        assert architecture in timm.list_models(pretrained=True)
    body = anatomy(build.skeleton(architecture, options))
    rows = checkpoints.find(architecture).asked_rows(options)
    assert (body.classes or 0) == rows
    assert rows in (0, 1000)
    assert body.image_shape[1:] == body.image_shape[2:] * 2
    assert body.image_shape[1] in (224, 256)


def test_the_three_sizes_have_one_recipe_and_its_published_accuracy():
    names = [model["architecture"] for model in models("imagenet_vit_sbl").values()]
    assert {name.partition(".")[2] for name in names} == {"augreg_in21k_ft_in1k"}
    assert [len(anatomy(build.skeleton(name, {})).blocks) for name in names] == [12, 12, 24]
    assert all(published.of_timm(name) for name in names)
    papers = [model["paper_model"] for model in models("imagenet_vit_sbl").values()]
    assert papers == ["ViT-S/16", "ViT-B/16", "ViT-L/16"]


@pytest.mark.parametrize("cohort", ["deit3", "dinov2", "dinov2_registers", "mae", "clip", "siglip"])
def test_a_cohort_has_one_recipe_in_sizes_that_grow(cohort):
    of_cohort = {
        name: model["architecture"]
        for name, model in models("cohorts").items()
        if name.rpartition("_")[0] == cohort
    }
    assert len(of_cohort) >= 2
    assert len({name.partition(".")[2] for name in of_cohort.values()}) == 1
    widths = [anatomy(build.skeleton(name, {})).channels for name in of_cohort.values()]
    assert widths == sorted(set(widths))


def test_in_torchvisions_cohort_accuracy_falls_with_size():
    names = [m["architecture"] for m in models("cohorts").values() if "torch" in m["architecture"]]
    top1 = [checkpoints.find(name).published.top1 for name in names]
    assert top1 == [81.072, 79.662]
