"""A study's settings: completed, cut to what each stage reads, and refused where they are wrong."""

import inspect
import json
import os
import re
from copy import deepcopy
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from vitals.catalogue import METRICS
from vitals.chain import chain
from vitals.errors import VitalsError
from vitals.provenance import digest_of
from vitals.study import Study

REPOSITORY = Path(__file__).parents[2]
SCHEMA_FILE = REPOSITORY / "workflow" / "schemas" / "study.yaml"
SCHEMA = yaml.safe_load(SCHEMA_FILE.read_text())
STUDIES = [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "studies").glob("*.yaml"))]
SMALL = {
    "study": "small",
    "images": {"dataset": "digits"},
    "models": {"vit": {"architecture": "vit_tiny_patch16_224", "options": {"depth": 2}}},
}
STAGES = [
    *(("images", None), ("train", "vit"), ("load", "vit"), ("extract", "0"), ("summary", None)),
    *(("figure", "similarity"), ("compare", "similarity"), ("gallery", "vit")),
    *(("vary", "patch_shuffled/0"), ("intervene", "vit")),
    *((name, None) for name in ("sweep", "depths", "findings", "captions", "replicate", "page")),
    *(("metric", name) for name in METRICS),
]


@pytest.fixture(autouse=True)
def where_no_study_has_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def study_of(settings=SMALL):
    return Study(settings, SCHEMA_FILE)


def changed(keys, value, settings=SMALL):
    """A copy of the settings with one key, "a.b.c", set."""
    settings = deepcopy(settings)
    *path, last = keys.split(".")
    place = settings
    for key in path:
        place = place.setdefault(key, {})
    place[last] = value
    return settings


def properties(schema, path=""):
    """Every property of a schema by its path."""
    for name, part in schema.get("properties", {}).items():
        part = {**SCHEMA["$defs"].get(part.get("$ref", "").rpartition("/")[2], {}), **part}
        yield f"{path}{name}", part
        yield from properties(part, f"{path}{name}.")
        if isinstance(part.get("additionalProperties"), dict):
            yield from properties(part["additionalProperties"], f"{path}{name}.*.")


PROPERTIES = dict(properties(SCHEMA))


def test_the_defaults_are_filled_in_and_the_settings_given_left_alone():
    given = deepcopy(SMALL)
    settings = study_of(given).settings
    assert given == SMALL
    assert settings["images"]["test_share"] == 0.3
    assert settings["images"]["limit"] is None
    assert settings["activations"]["codec"] == "none"
    assert settings["models"]["vit"]["weights"] == "trained"
    assert settings["training"]["epochs"] == 30
    assert settings["metrics"].keys() == METRICS.keys()
    assert settings["bootstrap"] == {"samples": 1000, "seed": 0}


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_studies_of_the_repository_are_valid(file, tmp_path):
    settings = yaml.safe_load(file.read_text())
    if "path" in settings["images"]:  # of ImageNet, where it lies
        settings["images"]["path"] = of_folders(tmp_path, [TENCH, TABBY])["images"]["path"]
    study = study_of(settings)
    assert study.models


def test_every_property_is_described_and_its_default_allowed():
    assert len(PROPERTIES) > 60
    for path, schema in PROPERTIES.items():
        assert schema.get("description"), path
        required = path in ("study", "images", "images.dataset", "models", "models.*.architecture")
        option = path.startswith(("models.*.options.", "models.*.training."))
        assert ("default" in schema) == (not required and not option), path


def test_a_default_written_out_changes_no_spec():
    settings = SMALL
    for path, schema in PROPERTIES.items():
        if "default" in schema and schema["default"] != {} and "*" not in path:
            settings = changed(path, schema["default"], settings)
    plain, written = study_of(), study_of(settings)
    for stage, name in STAGES:
        assert written.spec(stage, name) == plain.spec(stage, name)


READERS = {
    "images.seed": {"images", "train", "extract", "vary", "intervene", "page"},
    "images.limit": {"images", "train", "extract", "vary", "intervene", "page"},
    "images.skip_unreadable": {"extract", "vary", "intervene", "page"},
    "images.keep_decoded": set(),
    "training.epochs": {"train", "page"},
    "training.stop_after": {"train", "page"},
    "models.vit.options.num_heads": {"train", "load", "page"},
    "models.vit.training.epochs": {"train", "page"},
    "activations.storage": {"extract", "vary", "page"},
    "activations.keep_bits": {"extract", "vary", "page"},
    "activations.batch": set(),
    "metrics.probes.folds": {"metric probes", "page"},
    "metrics.tradeoff.margin": {"metric tradeoff", "page"},
    "metrics.depth.tolerance": {"metric depth"},  # no page tells of what is not made
    "compare.positions": {"compare similarity", "page"},
    "interventions.repeats": {"intervene", "page"},
    "sweep.factor": {"sweep", "page"},
    "figures.scale": {"figure similarity"},
    "study": {"summary", "depths", "findings", "captions", "replicate", "page"},
    "figures.palette": {"figure similarity", "page"},
    "models.vit.paper_model": {"findings"},
    "bootstrap.samples": {
        "compare similarity",
        "sweep",
        "page",
        *(f"metric {name}" for name in METRICS if name not in ("tradeoff", "depth")),
    },
}
VALUES = {
    "activations.storage": "float32",
    "sweep.factor": "width",
    "interventions.repeats": 5,
    "metrics.depth.tolerance": 0.5,
    "images.skip_unreadable": True,
    "images.keep_decoded": True,
    "study": "other",
    "images.limit": 200,
    "bootstrap.samples": 300,
    "figures.palette": "muted",
    "models.vit.paper_model": "ViT-B/16",
}


@pytest.mark.parametrize("key", READERS)
def test_a_setting_is_in_the_spec_of_just_the_stages_that_read_it(key):
    plain, other = (
        study_of(),
        study_of(changed(key, VALUES.get(key, 3))),
    )
    differ = {
        " ".join(filter(None, (stage, name if stage in ("metric", "compare", "figure") else "")))
        for stage, name in STAGES
        if plain.spec(stage, name) != other.spec(stage, name)
    }
    assert differ == READERS[key]


def test_without_changed_passes_there_is_nothing_that_reads_them():
    asked, other = study_of(changed("interventions.images", 5)), study_of()
    assert asked.metrics.keys() - other.metrics.keys() == {"interventions", "depth"}
    left_out = {"interventions", "depth", "sweep", "correlations"}
    assert asked.figures.keys() - other.figures.keys() == left_out
    made = [{step.stage for step in chain(study)} for study in (asked, other)]
    assert made[0] - made[1] == {"intervene", "sweep", "depths"}
    read = [path for step in chain(other) for path in step.inputs]
    assert set(read) <= {path for step in chain(other) for path in step.outputs}
    assert set(asked.sweep_figures()) <= asked.figures.keys()
    with pytest.raises(VitalsError, match=r"interventions\.images: 0, expected 2 or more"):
        other.sweep_figures()


def test_of_the_figures_the_scrambling_is_told_of_the_papers_models():
    study = study_of(changed("models.vit.paper_model", "ViT-B/16"))
    assert json.loads(study.spec("figure", "scrambling"))["paper_models"] == {"vit": "ViT-B/16"}
    assert "paper_models" not in json.loads(study.spec("figure", "similarity"))


def test_a_style_is_read_for_what_it_says_and_not_for_where_it_lies(tmp_path):
    specs = []
    for name in ("here", "there"):
        file = tmp_path / f"{name}.mplstyle"
        file.write_text(f"# of {name}\nfont.size: 9\n")
        specs.append(study_of(changed("figures.style", str(file))).spec("figure", "similarity"))
    assert specs[0] == specs[1] and json.loads(specs[0])["style"] == ["font.size: 9"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("font.sise: 9", "figures.style: 'font.sise' is not a matplotlib setting"),
        ("savefig.dpi: 9", "figures.style: 'savefig.dpi' is not a matplotlib setting that a style"),
        ("font.size: huge-ish", "figures.style: font.size = huge-ish: "),
        (None, "figures.style = 'own.mplstyle' cannot be read: No such file"),
    ],
)
def test_a_wrong_style_is_refused_before_anything_runs(text, message, tmp_path):
    if text is not None:
        (tmp_path / "own.mplstyle").write_text(text)  # the folder in which the test runs
    with pytest.raises(VitalsError, match=re.escape(message)):
        study_of(changed("figures.style", "own.mplstyle"))


def test_a_models_own_training_goes_before_that_of_the_study():
    study = study_of(changed("models.vit.training", {"epochs": 7}))
    recipe = json.loads(study.spec("train", "vit"))["training"]
    assert recipe["epochs"] == 7
    assert recipe["batch"] == 64


def test_models_are_trained_or_loaded_by_their_weights(tmp_path):
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"weights")
    settings = deepcopy(SMALL)
    tagged = "vit_tiny_patch16_224.augreg_in21k"
    for name, weights in (("timm", "pretrained"), ("own", str(file))):
        bare = {"options": {"num_classes": 0}}  # digits are no classes of ImageNet
        settings["models"][name] = {"architecture": tagged, "weights": weights, **bare}
    study = study_of(settings)
    assert study.trained == ["vit"]
    assert study.loaded == ["timm", "own"]
    assert [study.weights_file(m) for m in study.models] == [[], [], [str(file)]]
    assert [study.weights(m) for m in study.models] == ["", "", f"--weights {file}"]
    assert json.loads(study.spec("load", "timm"))["weights"] == "pretrained"
    assert json.loads(study.spec("load", "own"))["weights"] == digest_of(b"weights")


TENCH, TABBY = "n01440764", "n02123045"
PUBLISHED = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def of_folders(tmp_path, names, **model):
    """A study of ten images in each of these class folders, and one model."""
    for name in names:
        for number in range(10):
            image = tmp_path / "tree" / name / f"{number}.JPEG"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(b"content")
    images = {"dataset": "folder", "path": str(tmp_path / "tree"), "test_share": 0.5}
    return {"study": "tried", "images": images, "models": {"vit": model}}


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        ([TENCH, TABBY], {}, None),
        (["tench", "tabby"], {}, None),
        ([TENCH, "n01440765"], {}, "models.vit: .* 1000 rows have no class 'n01440765'"),
        ([TENCH, "n01440765"], {"options": {"num_classes": 0}}, None),
        ([TENCH, "n01440765"], {"architecture": "vit_small_patch14_dinov2.lvd142m"}, None),
        ([TENCH, "n01440765"], {"architecture": "torchvision:vit_b_16.IMAGENET1K_V1"}, "1000 rows"),
        ([TENCH, TABBY], {"architecture": "vit_base_patch16_clip_224.openai"}, "each of the 512"),
        ([TENCH, TABBY], {"classes": "names.txt"}, "models.vit: .* 2 rows have no class"),
        (["one", "two"], {"classes": "names.txt"}, None),
    ],
)
def test_a_class_that_a_published_classifier_lacks_is_named_before_any_job(
    tmp_path, names, model, message
):
    Path("names.txt").write_text("two\none\n")
    given = {"architecture": PUBLISHED, "weights": "pretrained", **model}
    settings = of_folders(tmp_path, names, **given)
    if message is None:
        assert study_of(settings).loaded == ["vit"]
    else:
        with pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
            study_of(settings)


def test_another_place_of_the_weights_and_of_the_images_is_in_no_spec(tmp_path):
    specs = []
    for place in ("one", "other"):
        for name in (f"{label}/{index}.png" for label in "ab" for index in range(10)):
            image = tmp_path / place / name
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(b"content")
            os.utime(image, ns=(0, 0))
        (tmp_path / place / "own.pth").touch()
        settings = changed("images", {"dataset": "folder", "path": str(tmp_path / place)})
        settings = changed("models.vit.weights", str(tmp_path / place / "own.pth"), settings)
        study = study_of(changed("images.test_share", 0.5, settings))
        assert study.data == f"--data {tmp_path / place}"
        specs.append([study.spec(s, n) for s, n in STAGES])
    assert specs[0] == specs[1]


def test_more_images_change_the_specs_of_new_shards_alone():
    few = study_of({**SMALL, "activations": {"shard_images": 50}, "images": limited(100)})
    more = study_of({**SMALL, "activations": {"shard_images": 50}, "images": limited(175)})
    assert (len(few.shards), len(more.shards)) == (2, 4)
    for shard in ("0", "1"):
        assert few.spec("extract", shard) == more.spec("extract", shard)
    assert few.spec("load", "vit") == more.spec("load", "vit")
    assert few.spec("train", "vit") != more.spec("train", "vit")


def limited(count):
    return {"dataset": "digits", "limit": count}


def test_how_images_are_passed_is_on_the_command_line_alone():
    assert study_of().passing == ""
    assert study_of().sharing == "--studies artifacts"
    assert study_of(changed("sharing", False)).sharing == ""
    settings = changed("activations.batch", 8, changed("images.keep_decoded", True))
    assert study_of(settings).passing == "--batch 8 --decoded artifacts/small/decoded"


@pytest.mark.parametrize(("size", "count"), [(1797, 1), (1796, 2), (600, 3), (1, 1797)])
def test_shards_cover_the_images(size, count):
    study = study_of(changed("activations.shard_images", size))
    assert study.shards == range(count)
    limited = study_of(changed("images.limit", 100, study.settings))
    assert len(limited.shards) == -(-100 // size)


WRONG = [
    ("image", {}, "unknown key 'image': did you mean 'images'"),
    ("images.limits", 5, "unknown key in images 'limits': did you mean 'limit'"),
    ("models.vit.option", {}, "unknown key in models.vit 'option': did you mean 'options'"),
    ("models.vit.options.dept", 2, "unknown key in models.vit.options 'dept': did you mean 'dep"),
    ("metrics.simlarity", {}, "unknown key in metrics 'simlarity': did you mean 'similarity'"),
    ("metrics.probes.fold", 5, "unknown key in metrics.probes 'fold': did you mean 'folds'"),
    ("metrics.position.x", 5, "unknown key in metrics.position 'x'"),
    ("training.epoch", 3, "unknown key in training 'epoch': did you mean 'epochs'"),
    ("images.7", 1, "unknown key in images '7'"),
    ("models.vit.architecture", "vit_tinny_patch16_224", "models.vit.architecture: unknown arch"),
    ("models.vit.architecture", "vit_tinny_patch16_224", "did you mean 'vit_tiny_patch16_224'"),
    ("images.dataset", "digit", "images.dataset: 'digit': did you mean 'digits'"),
    ("activations.storage", "float8", "activations.storage: 'float8': did you mean 'float"),
    ("models.vit.options.global_pool", "max", "global_pool: 'max': .*known: avg, token"),
    ("models.vit.options.depth", 0, "models.vit.options.depth = 0: .*minimum of 1"),
    ("models.vit.options.qk_norm", "yes", "models.vit.options.qk_norm = 'yes': .*'boolean'"),
    ("models.vit.options", {"embed_dim": 48, "num_heads": 5}, "embed_dim = 48 .* num_heads = 5"),
    ("models.vit.options", {"img_size": 8, "patch_size": 3}, "img_size = 8 .* patch_size = 3"),
    ("models.vit.weights", "nowhere.pth", "models.vit.weights = 'nowhere.pth': .*path of a file"),
    ("models.vit.weights", "pretrained", "models.vit.architecture: .*augreg_in21k_ft_in1k"),
    ("models.vit.architecture", "hiera_tiny_224", "models.vit.architecture: .*residual stream"),
    ("models.vit.architecture", "hf-hub:timm/vit", "models.vit.architecture: .*revision"),
    ("models.vit.options", {"num_classes": 0}, "models.vit.options.num_classes = 0"),
    ("models.vit.classes", "nowhere.txt", "models.vit.classes = 'nowhere.txt'.*text file"),
    ("images", {"dataset": "folder"}, "images.path: .*'folder'"),
    ("images", {"dataset": "folder", "path": "/nowhere"}, "/nowhere"),
    ("images.path", "x", "images.path = 'x': expected null"),
    ("models.vit.weights", 3, "models.vit.weights = 3"),
    ("models.vit", None, "models.vit = None"),
    ("models", {}, "models = {}"),
    ("models.a-b", {"architecture": "vit_tiny_patch16_224"}, "models = 'a-b'.*letters, digits"),
    ("study", "a/b", "study = 'a/b'"),
    ("study", 2024, "study = 2024"),
    ("images.test_share", 1, "images.test_share = 1: .*more than 0 and less than 1"),
    ("images.test_share", 0.001, "images.test_share = 0.001 leaves class 0 .*split 'test'"),
    ("images.limit", 12, "leaves class"),
    ("images.seed", -1, "images.seed = -1"),
    ("training.epochs", 30.0, "training.epochs = 30.0: .*'integer'"),
    ("training.epochs", True, "training.epochs = True"),
    ("training.stop_after", 31, "models.vit: training.stop_after = 31: .*epochs = 30"),
    ("training.stop_after", -1, "training.stop_after = -1"),
    ("training.learning_rate", float("inf"), "training.learning_rate = inf"),
    ("training.weight_decay", float("nan"), "training.weight_decay = nan"),
    ("metrics.probes.penalties", [1, -1], r"metrics.probes.penalties.1 = -1"),
    ("metrics.scrambling.nulls", ["noise_matched"], "metrics.scrambling.nulls"),
    ("metrics.scrambling.folds", 700, "folds = 700 needs .* 1400 fit images, found 12.*2 to 6"),
    ("activations.token_images", 7, "scrambling.folds = 5 .* 10 fit images, found 7: .*2 to 3 "),
    ("activations.token_images", 3, "found 3: expected more images"),
    ("bootstrap.samples", 10, "bootstrap.samples = 10: .*integer from 100"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_wrong_setting_is_one_line_that_names_it(key, value, message):
    settings = changed(key, value)
    if key == "images.7":
        settings["images"] = {**SMALL["images"], 7: 1}
    with pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        study_of(settings)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("study", "the study lacks 'study'"),
        ("images", "the study lacks 'images'"),
        ("images.dataset", "images lacks 'dataset'"),
        ("models.vit.architecture", "models.vit lacks 'architecture'"),
    ],
)
def test_a_setting_that_has_to_be_given_is_named(key, message):
    settings = deepcopy(SMALL)
    *path, last = key.split(".")
    place = settings
    for name in path:
        place = place[name]
    del place[last]
    with pytest.raises(VitalsError, match=re.escape(message)):
        study_of(settings)


@pytest.mark.parametrize("metric", METRICS)
def test_what_a_metric_is_given_is_what_it_takes_and_by_the_same_defaults(metric):
    taken = inspect.signature(import_module(f"vitals.metrics.{metric}").compute).parameters
    given = json.loads(study_of().spec("metric", metric))
    assert given.keys() <= taken.keys()
    for name, value in given.items():
        default = taken[name].default
        assert value == (list(default) if isinstance(default, tuple) else default), name


def test_what_the_other_stages_are_given_is_what_they_take():
    from vitals.activations.layout import Settings
    from vitals.metrics import comparison, summary
    from vitals.models.training import Recipe

    study = study_of()
    for stage, name, takes in (
        ("compare", "similarity", list(inspect.signature(comparison.compute).parameters)[1:]),
        ("summary", None, list(inspect.signature(summary.table).parameters)[1:]),
    ):
        assert set(json.loads(study.spec(stage, name))) == set(takes), stage
    recipe = {field.name for field in fields(Recipe)}
    assert json.loads(study.spec("train", "vit"))["training"].keys() == recipe
    assert study.kept.keys() == {field.name for field in fields(Settings)}
    assert json.loads(study.spec("extract", "0"))["settings"] == study.kept
    assert SCHEMA["properties"]["models"]["additionalProperties"]["properties"]["training"][
        "properties"
    ].keys() == recipe  # fmt: skip


def test_each_stage_has_the_digest_of_its_code():
    study = study_of()
    digests = {(stage, name): study.code(stage, name) for stage, name in STAGES}
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests.values())
    assert digests["metric", "similarity"] != digests["metric", "probes"]
