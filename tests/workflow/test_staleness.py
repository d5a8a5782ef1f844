"""Exactly what a change makes stale reruns: for every setting, file and line of code."""

import contextlib
import dataclasses
import os
import shutil

import pytest
import yaml
from conftest import REPOSITORY, Workflow, copy_of_the_checkout
from dry_runs import by_rule, make, stale
from small_studies import (
    DIGITS,
    PICTURES,
    TOLD,
    digits_study,
    draw_checkpoint,
    draw_pictures,
    pictures_study,
)
from snakemake.exceptions import WorkflowError
from snakemakes import typed

from vitals import provenance
from vitals.figures import style_file
from vitals.page import template
from vitals.study import Study

REFUSED = "refused"
SCHEMA = yaml.safe_load((REPOSITORY / "workflow" / "schemas" / "study.yaml").read_text())


def nothing(jobs):
    return set()


def refused(jobs):
    return REFUSED


def extracted(jobs):
    return jobs.extracted()


def stored(jobs):
    """What is kept of the plain passes alone."""
    return jobs.extracted() - jobs.varied()


def in_the_first_shard(jobs):
    """So few images have tokens, which is what variants are of."""
    return jobs.extracted() - jobs.varied(shards=range(1, jobs.shards))


def trained(jobs):
    return jobs.made(*jobs.trained)


def one_model(jobs):
    return jobs.made("vit")


def relisted(jobs):
    """Another list: all that was trained on it and every shard, but no loaded weights."""
    return {"images"} | trained(jobs) | jobs.passed()


def measured(jobs):
    """Every metric, and the alignment."""
    return jobs.measured() | jobs.aligned()


def intervened(jobs):
    return jobs.intervened()


def metric(name):
    return lambda jobs: jobs.measured({name})


# For every setting: another value, and the jobs that it makes stale. A setting that is one of each
# model is tried on the model "vit", which is trained here.
LEAVES = {
    "study": ("other", lambda jobs: jobs.all()),
    "sharing": (False, nothing),
    "images.path": ("elsewhere", refused),
    "images.revision": ("main", refused),
    "images.subset": ("plain", refused),
    "images.part": ("validation", refused),
    "images.image_column": ("picture", nothing),  # of Hugging Face datasets alone
    "images.label_column": ("class", nothing),
    "images.test_share": (0.45, relisted),
    "images.seed": (1, relisted),
    "images.skip_unreadable": (True, lambda jobs: jobs.passed()),
    "images.keep_decoded": (True, nothing),
    "models.*.architecture": ("vit_small_patch16_224", one_model),
    "models.*.classes": ("names.txt", nothing),  # of loaded weights alone
    "models.*.paper_model": (
        "ViT-B/16",
        lambda jobs: {"draw scrambling", "findings", "captions", "replicate", "page"},
    ),
    "models.*.options.img_size": (32, one_model),
    "models.*.options.patch_size": (4, one_model),
    "models.*.options.in_chans": (2, one_model),
    "models.*.options.embed_dim": (32, one_model),
    "models.*.options.depth": (3, one_model),
    "models.*.options.num_heads": (4, one_model),
    "models.*.options.mlp_ratio": (3, one_model),
    "models.*.options.qk_norm": (True, one_model),
    "models.*.options.init_values": (0.1, one_model),
    "models.*.options.class_token": (False, one_model),
    "models.*.options.no_embed_class": (True, one_model),
    "models.*.options.reg_tokens": (2, one_model),
    "models.*.options.pre_norm": (True, one_model),
    "models.*.options.final_norm": (False, one_model),
    "models.*.options.fc_norm": (True, one_model),
    "models.*.options.global_pool": ("avg", one_model),
    "models.*.options.num_classes": (0, refused),  # of loaded weights alone
    "models.*.options.drop_path_rate": (0.1, one_model),
    "models.*.training.epochs": (2, one_model),
    "models.*.training.batch": (8, one_model),
    "models.*.training.learning_rate": (0.002, one_model),
    "models.*.training.weight_decay": (0.1, one_model),
    "models.*.training.warmup": (0.4, one_model),
    "models.*.training.smoothing": (0.1, one_model),
    "models.*.training.seed": (5, one_model),
    "models.*.training.stop_after": (0, one_model),
    "training.epochs": (2, trained),
    "training.batch": (8, trained),
    "training.learning_rate": (0.002, trained),
    "training.weight_decay": (0.1, trained),
    "training.warmup": (0.4, trained),
    "training.smoothing": (0.1, trained),
    "training.seed": (5, one_model),  # the other has its own
    "training.stop_after": (0, trained),
    "activations.tokens": ("stream", refused),  # without token_images
    "activations.token_images": (5, in_the_first_shard),
    "activations.gallery_images": (3, stored),
    "activations.attention": (False, stored),
    "activations.sub_blocks": (True, extracted),
    "activations.precision": ("bfloat16", extracted),
    "activations.storage": ("float32", extracted),
    "activations.codec": ("zstd", extracted),
    "activations.keep_bits": (10, extracted),
    "activations.batch": (7, nothing),
    "interventions.images": (5, intervened),
    "interventions.strengths": ([0, 1], intervened),
    "interventions.controls": (["mean_only"], intervened),
    "interventions.kinds": (["exit"], intervened),
    "interventions.repeats": (1, intervened),
    "interventions.seed": (1, intervened),
    "bootstrap.samples": (150, measured),
    "bootstrap.seed": (1, measured),
    "metrics.accuracy.tolerance": (0.5, metric("accuracy")),
    "metrics.similarity.outlier_mads": (4, metric("similarity")),
    "metrics.phases.thresholds": ([0.1], metric("phases")),
    "metrics.scrambling.nulls": (["none"], metric("scrambling")),
    "metrics.scrambling.rank": (2, metric("scrambling")),
    "metrics.scrambling.penalties": ([0.2], metric("scrambling")),
    "metrics.scrambling.folds": (3, metric("scrambling")),
    "metrics.scrambling.sweeps": (50, metric("scrambling")),
    "metrics.scrambling.tolerance": (1e-6, metric("scrambling")),
    "metrics.scrambling.seed": (1, metric("scrambling")),
    "metrics.scrambling.cls_context": (True, metric("scrambling")),
    "metrics.scrambling.distances": ([1.5], metric("scrambling")),
    "metrics.scrambling.target_standard_error": (0.001, metric("scrambling")),
    "metrics.attention.damping": (0.8, metric("attention")),
    "metrics.collapse.tolerance": (1e-5, metric("collapse")),
    "metrics.collapse.classes": ([0, 1], metric("collapse")),
    "metrics.collapse.pinv_samples": (150, metric("collapse")),
    "metrics.probes.penalties": ([2.0], metric("probes")),
    "metrics.probes.folds": (3, metric("probes")),
    "metrics.probes.seed": (1, metric("probes")),
    "metrics.probes.solver": ("batched", metric("probes")),
    "metrics.probes.neighbours": (5, metric("probes")),
    "metrics.probes.max_iter": (50, metric("probes")),
    "metrics.tradeoff.margin": (0.1, metric("tradeoff")),
    "metrics.geometry.discarded_share": (0.2, metric("geometry")),
    "metrics.geometry.neighbour_images": (40, metric("geometry")),
    "metrics.geometry.massive_multiple": (50, metric("geometry")),
    "metrics.geometry.massive_channels": (3, metric("geometry")),
    "metrics.geometry.high_norm_mads": (4, metric("geometry")),
    "metrics.depth.tolerance": (0.02, metric("depth")),
    "sweep.factor": ("width", lambda jobs: jobs.swept({"phases"})),
    "compare.positions": (11, lambda jobs: jobs.compared(figures={"comparison"})),
    "figures.palette": ("muted", lambda jobs: jobs.drawn() | {"page"}),
    "figures.scale": (1.5, lambda jobs: jobs.drawn()),
    "figures.style": ("own.mplstyle", lambda jobs: jobs.drawn()),
}


def leaves(schema, path=()):
    """The paths of the settings of a schema; `*` stands for the name of a model."""
    if "properties" not in schema and "object" not in schema.get("type", ""):
        return [".".join(path)]
    inner = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        inner["*"] = schema["additionalProperties"]
    return [leaf for name, below in inner.items() for leaf in leaves(below, (*path, name))]


def set_to(study, leaf, value):
    *keys, last = leaf.replace("*", "vit").split(".")
    for key in keys:
        study = study.setdefault(key, {})
    study[last] = value


def fewer_images(study, folder):
    study["images"]["limit"] = 40


def more_images(study, folder):
    study["images"]["limit"] = 80


def pictures(study, folder):
    study["images"] = {"dataset": "folder", "path": "pictures"}


def digits(study, folder):
    study["images"] = {"dataset": "digits", "limit": 60}


def shards_of_20(study, folder):
    study["activations"]["shard_images"] = 20


def shards_of_12(study, folder):
    study["activations"]["shard_images"] = 12


def weights_of_a_file(study, folder):
    study["models"]["vit"]["weights"] = "own.pth"


def names_of_the_checkpoints_rows(study, folder):
    study["models"]["own"]["classes"] = "names.txt"


def checkpoint_without_its_classifier(study, folder):
    study["models"]["own"]["options"]["num_classes"] = 0


def nothing_changed(study, folder):
    pass


def every_default_written_out(study, folder):
    with contextlib.chdir(folder):
        study |= Study(study).settings


def keys_in_another_order(study, folder):
    for section in ("images", "training", "activations", "metrics"):
        study[section] = dict(reversed(study[section].items()))


def no_changed_passes(study, folder):
    study["interventions"]["images"] = 0


def two_settings_swapped(study, folder):
    study["metrics"]["probes"] |= {"neighbours": 1000, "max_iter": 20}


def a_model_added(study, folder):
    study["models"]["third"] = {**study["models"]["vit"], "training": {"seed": 9}}


def a_model_removed(study, folder):
    study["models"].popitem()


def a_picture_added(study, folder):
    shutil.copy(folder / "pictures" / "a" / "00.png", folder / "pictures" / "a" / "99.png")


def a_picture_replaced(study, folder):
    shutil.copy(folder / "pictures" / "b" / "07.png", folder / "pictures" / "b" / "08.png")


def every_picture_touched(study, folder):
    for file in folder.glob("pictures/*/*.png"):
        os.utime(file)


def pictures_moved(study, folder):
    (folder / "pictures").rename(folder / "elsewhere")
    study["images"]["path"] = "elsewhere"


def checkpoint_replaced(study, folder):
    draw_checkpoint(folder / "own.pth", seed=1)


def checkpoint_replaced_by_an_older_file(study, folder):
    checkpoint_replaced(study, folder)
    os.utime(folder / "own.pth", (0, 0))


def checkpoint_touched(study, folder):
    os.utime(folder / "own.pth")


def checkpoint_moved(study, folder):
    (folder / "own.pth").rename(folder / "moved.pth")
    study["models"]["own"]["weights"] = "moved.pth"


def with_shards(jobs, shards):
    return dataclasses.replace(jobs, shards=shards)


def anew(shards):
    """All of a study whose list now makes so many shards."""
    return lambda jobs: with_shards(jobs, shards).all()


def grown(shards):
    """More images: the trained are trained on them too, the loaded pass the new ones alone.

    But for the passes with one change, which are of all images of the split "test" at once.
    """
    return lambda jobs: retested_from(with_shards(jobs, shards), range(jobs.shards, shards))


def relisted_from(jobs, shards):
    return {"images"} | trained(jobs) | jobs.extracted(jobs.loaded, shards)


def retested_from(jobs, shards):
    """The same where some of the images are of the split "test"."""
    return relisted_from(jobs, shards) | jobs.intervened(jobs.loaded)


def last_shard(jobs):
    return retested_from(jobs, [jobs.shards - 1])


def second_shard(jobs):
    return relisted_from(jobs, [1])


def resharded(shards):
    return lambda jobs: with_shards(jobs, shards).extracted()


def loaded_now(jobs):
    return jobs.made("vit") - {"train vit"} | {"load vit"}


def checkpoint(jobs):
    return jobs.made("own")


def added(jobs):
    return dataclasses.replace(jobs, trained=("third",)).made("third")


def compared(jobs):
    return jobs.compared() | jobs.aligned() | jobs.swept()


EITHER = {
    "no changed passes": (no_changed_passes, lambda jobs: TOLD),  # of what is left
    "nothing": (nothing_changed, nothing),
    "every default written out": (every_default_written_out, nothing),
    "keys in another order": (keys_in_another_order, nothing),
    "two numeric settings swapped": (two_settings_swapped, metric("probes")),
    "a model added": (a_model_added, added),
    "a model removed": (a_model_removed, compared),
    "models.*.weights": (weights_of_a_file, loaded_now),
}
OF_DIGITS = {
    "images.dataset": (pictures, anew(2)),
    "images.limit": (more_images, grown(3)),
    "activations.shard_images": (shards_of_20, resharded(3)),
}
OF_PICTURES = {
    "images.dataset": (digits, anew(4)),
    "images.limit": (fewer_images, last_shard),
    "activations.shard_images": (shards_of_12, resharded(4)),
    "names of a checkpoint's rows": (names_of_the_checkpoints_rows, checkpoint),
    "a checkpoint without its classifier": (checkpoint_without_its_classifier, checkpoint),
}
OF_FILES = {
    "a picture added": (a_picture_added, grown(4)),
    "a picture replaced under its name": (a_picture_replaced, second_shard),
    "every picture touched": (every_picture_touched, nothing),
    "pictures moved": (pictures_moved, nothing),
    "a checkpoint replaced under its name": (checkpoint_replaced, checkpoint),
    "a checkpoint replaced by an older file": (checkpoint_replaced_by_an_older_file, checkpoint),
    "a checkpoint touched": (checkpoint_touched, nothing),
    "a checkpoint moved": (checkpoint_moved, nothing),
}
STUDIES = {"digits": (digits_study, DIGITS), "pictures": (pictures_study, PICTURES)}


def of_leaf(leaf, value):
    return lambda study, folder: set_to(study, leaf, value)


def cases():
    """Study, what changes, how, and the jobs that it makes stale."""
    settings = {leaf: (of_leaf(leaf, value), jobs) for leaf, (value, jobs) in LEAVES.items()}
    for study, own in (("digits", OF_DIGITS), ("pictures", {**OF_PICTURES, **OF_FILES})):
        for name, (change, jobs) in {**EITHER, **settings, **own}.items():
            yield study, name, change, jobs


def make_study(folder, name):
    """Make one of the studies, and what lies beside it, in a folder."""
    draw_pictures(folder / "pictures")
    draw_checkpoint(folder / "own.pth", seed=0)
    (folder / "names.txt").write_text("a\nb\nc\n")
    (folder / "own.mplstyle").write_text("font.size: 8\n")
    make(folder, STUDIES[name][0]())
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder for each study in which all of it was made."""
    return {name: make_study(tmp_path_factory.mktemp(name), name) for name in STUDIES}


CHANGES_FILES = {change for change, _ in OF_FILES.values()}


@pytest.mark.parametrize(
    ("study", "change", "jobs"),
    [pytest.param(study, change, jobs, id=f"{study}: {n}") for study, n, change, jobs in cases()],
)
def test_a_change_reruns_exactly_what_hangs_on_it(made, study, change, jobs, tmp_path):
    folder = made[study]
    if change in CHANGES_FILES:
        folder = shutil.copytree(folder, tmp_path / study)  # with its records and times
    settings, expected = STUDIES[study][0](), jobs(STUDIES[study][1])
    change(settings, folder)
    if expected == REFUSED:
        with pytest.raises(WorkflowError):
            stale(folder, settings)
    else:
        assert stale(folder, settings) == expected


# Edits of the library: the module, the edit, and the jobs that it makes stale.
LIBRARY = REPOSITORY / "workflow" / "vitals"
STATEMENT = "\nEDITED = True\n"
COMMENT = "\n# a comment\n\n\n"


def rooms(jobs):
    """All that a model goes through, and the list of images before it."""
    return jobs.all()


def models(jobs):
    return jobs.made(*jobs.models)


def drawn(jobs):
    return jobs.drawn()


def galleries(jobs):
    return {f"gallery {model}" for model in jobs.models} | {"page"}


EDITS = {
    # what runs in one stage alone
    "data/images.py": rooms,
    "models/training.py": models,
    "models/anatomy.py": models,
    "activations/extract.py": extracted,
    "metrics/similarity.py": metric("similarity"),
    "metrics/phases.py": metric("phases"),
    "metrics/collapse.py": metric("collapse"),
    "metrics/probes.py": metric("probes"),
    "metrics/tradeoff.py": metric("tradeoff"),
    "metrics/geometry.py": metric("geometry"),
    "metrics/changed_passes.py": intervened,
    "metrics/depth.py": metric("depth"),
    "metrics/depth_table.py": lambda jobs: {"depths"},
    "metrics/sweep.py": lambda jobs: jobs.swept({"phases"}),
    "metrics/alignment.py": lambda jobs: jobs.aligned(),
    "metrics/comparison.py": lambda jobs: jobs.compared(figures={"comparison"}),
    "metrics/summary.py": lambda jobs: jobs.drawn() | TOLD,  # figures show its rows
    "metrics/patch_quantities.py": galleries,
    "findings/statements.py": lambda jobs: {"findings", "captions", "replicate", "page"},
    "replication.py": lambda jobs: {"replicate"},
    "captions/sentences.py": lambda jobs: {"captions"},
    "page/contents.py": lambda jobs: {"page"},
    "figures/probes.py": lambda jobs: jobs.drawn({"probes"}),
    # what several share
    "errors.py": rooms,
    "metrics/files.py": lambda jobs: measured(jobs) | jobs.intervened() | galleries(jobs),
    "activations/variants.py": lambda jobs: jobs.passed(),
    "metrics/piecewise.py": metric("phases"),
    "metrics/token_norms.py": lambda jobs: (
        jobs.measured({"similarity", "geometry"}) | jobs.intervened()
    ),
    "metrics/classifier_lens.py": metric("collapse"),
    "figures/style.py": lambda jobs: jobs.drawn() | {"page"},  # the same colours
    "figures/files.py": drawn,
    # what no job runs
    "plan.py": nothing,
    "study.py": nothing,
    "catalogue.py": nothing,
}


@contextlib.contextmanager
def edited_library(place):
    """A copy of the library that digests are taken of, from the files as they are then."""
    shutil.copytree(LIBRARY, place, ignore=shutil.ignore_patterns("__pycache__"))
    forget_digests()
    provenance.LIBRARY = place
    try:
        yield place
    finally:
        provenance.LIBRARY = LIBRARY
        forget_digests()


@pytest.fixture
def library(tmp_path):
    with edited_library(tmp_path / "vitals") as copied:
        yield copied


def forget_digests():
    for function in vars(provenance).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def write_at_end(file, text):
    file.write_text(file.read_text() + text)


@pytest.mark.parametrize(("module", "jobs"), EDITS.items(), ids=list(EDITS))
def test_an_edit_reruns_exactly_what_runs_it(made, library, module, jobs):
    write_at_end(library / module, STATEMENT)
    assert stale(made["pictures"], pictures_study()) == jobs(PICTURES)


def test_an_edit_of_the_template_makes_the_page_anew(made, library, monkeypatch):
    monkeypatch.setattr(template, "FOLDER", library / "page")
    write_at_end(library / "page" / "page.css", "p { color: red }")
    assert stale(made["pictures"], pictures_study()) == {"page"}


def test_an_edit_of_the_house_style_redraws_the_figures(made, library, monkeypatch):
    monkeypatch.setattr(style_file, "HOUSE", library / "figures" / "house.mplstyle")
    write_at_end(library / "figures" / "house.mplstyle", "# a comment\n\n")
    assert stale(made["pictures"], pictures_study()) == set()
    write_at_end(library / "figures" / "house.mplstyle", "font.size: 8\n")
    assert stale(made["pictures"], pictures_study()) == PICTURES.drawn()


def test_what_is_said_about_code_reruns_nothing(made, library):
    for file in library.rglob("*.py"):
        write_at_end(file, COMMENT)
        file.write_text(file.read_text().replace("    return ", "    return  ", 1))
    folder = made["pictures"]
    assert stale(folder, pictures_study()) == set()
    (library / "data" / "new.py").write_text("import vitals.data.images\n")
    assert stale(folder, pictures_study()) == set()


def test_a_docstring_reruns_nothing(made, library):
    module = library / "metrics" / "collapse.py"
    first, *rest = module.read_text().splitlines(keepends=True)
    assert first.startswith('"""')
    module.write_text(first.replace('"""', '"""Said otherwise. ', 1) + "".join(rest))
    assert stale(made["pictures"], pictures_study()) == set()


def test_cores_rerun_nothing(made):
    assert stale(made["digits"], digits_study(), cores=2) == set()


def test_the_command_itself_says_the_same(made):
    study = pictures_study()
    set_to(study, "metrics.probes.folds", 3)
    workflow = Workflow(made["pictures"])
    assert workflow.jobs(study, "--cores", "2") == by_rule(metric("probes")(PICTURES))


def test_the_command_of_an_edited_checkout_says_the_same(made, tmp_path):
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    write_at_end(checkout / "workflow" / "vitals" / "metrics" / "collapse.py", STATEMENT)
    workflow = Workflow(made["pictures"], snakemake=typed)
    jobs = workflow.jobs(pictures_study(), "--snakefile", checkout / "Snakefile")
    assert jobs == by_rule(metric("collapse")(PICTURES))


@pytest.mark.parametrize("study", STUDIES)
def test_every_setting_is_a_case(study):
    assert set(leaves(SCHEMA)) <= {name for of, name, _, _ in cases() if of == study}
