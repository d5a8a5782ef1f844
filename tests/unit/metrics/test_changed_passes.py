"""Passes with one change each, of known consequence."""

import numpy as np
import pytest
import torch
import xarray as xr

from small_shards import MACHINE, subject_of
from vitals.activations.passing import Machine
from vitals.data import images
from vitals.data.images import FIT, TEST
from vitals.errors import VitalsError
from vitals.metrics import changed_passes, interventions
from vitals.metrics.changed_passes import CONTROLS, KINDS, Settings, values_of
from vitals.metrics.parts import Parts
from vitals.metrics.results import absences
from vitals.metrics.token_similarity import TokenSimilarity
from vitals.models import build, training

STRENGTHS = (0.0, 0.5, 1.0, 2.0)
SETTINGS = Settings(strengths=STRENGTHS, controls=CONTROLS, kinds=KINDS, repeats=2, seed=0)
CUTS = ["to_cls_cut", "from_cls_cut"]
RECIPE = training.Recipe(
    epochs=15, batch=32, learning_rate=0.01, weight_decay=0.05, warmup=0.2, smoothing=0.0, seed=0
)


@pytest.fixture(scope="module")
def tested(images_file):
    """The test images of the small list: 18 digits."""
    return images.read(images_file).of_split(TEST)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tested):
    """The scores of a model under every change, or under those that are asked for."""

    def run(model, machine=MACHINE, folder=None, listed=tested, **changes):
        settings = Settings(**{**vars(SETTINGS), **changes})
        folder = folder or tmp_path_factory.mktemp("scored")
        parts = Parts(folder / "interventions.nc", "these things")
        return values_of(subject_of(model), listed, settings, machine, False, parts)

    return run


@pytest.fixture(scope="module")
def plain(small_vit):
    return small_vit(depth=3)


@pytest.fixture(scope="module")
def found(scored, plain):
    return scored(plain)


@torch.inference_mode()
def logits(model, listed):
    transform = subject_of(model).transform
    return model(transform(torch.from_numpy(listed.pixels())))


def test_the_model_as_it_is_scores_what_it_gives(found, plain, tested):
    given = logits(plain, tested)
    labels = torch.tensor(tested.labels())
    np.testing.assert_array_equal(found["correct"], given.argmax(1) == labels)
    own = given.double().softmax(1)[torch.arange(len(labels)), labels]
    np.testing.assert_allclose(found["probability"], own, rtol=1e-5)


def test_strength_1_is_the_model_as_it_is(found):
    for score in ("correct", "probability", "centered_cosine"):
        once = found[f"{score}_by_strength"].sel(strength=1.0)
        np.testing.assert_array_equal(once, found[score])
    twice = found["probability_by_strength"].sel(strength=2.0)
    assert not np.allclose(twice, found["probability"], rtol=1e-2)


def test_without_positions_the_order_of_patches_does_not_matter(scored, plain, tested, monkeypatch):
    """The patches of every image are permuted alike: at strength 0 nothing changes."""
    pixels = tested.pixels()
    order = np.random.default_rng(0).permutation(16)
    blocks = pixels.reshape(-1, 1, 4, 2, 4, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 16, 1, 2, 2)
    moved = blocks[:, order].reshape(-1, 4, 4, 1, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    few = {"kinds": (), "controls": ()}
    before = scored(plain, **few)
    monkeypatch.setattr(
        "vitals.activations.passing.pixels.prepared",
        lambda *_, **__: iter(moved.reshape(pixels.shape)),
    )
    after = scored(plain, **few)
    pairs = [x["probability_by_strength"] for x in (before, after)]
    np.testing.assert_allclose(*(x.sel(strength=0.0) for x in pairs), rtol=1e-6)
    assert not np.allclose(*(x.sel(strength=1.0) for x in pairs), rtol=1e-3)


def test_a_control_has_the_norms_of_what_it_replaces():
    rows = (
        torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
        * torch.arange(1, 17)[:, None]
    )
    drawn = {
        name: changed_passes._drawn(rows, name, torch.Generator().manual_seed(1))
        for name in CONTROLS
    }
    torch.testing.assert_close(drawn["random_field"].norm(dim=1), rows.norm(dim=1))
    shuffled = drawn["shuffled_rows"]
    assert not torch.equal(shuffled, rows)
    torch.testing.assert_close(shuffled.sort(dim=0).values, rows.sort(dim=0).values)
    torch.testing.assert_close(drawn["mean_only"], rows.mean(0).expand(16, 8))


def test_the_mean_only_control_is_no_position_but_a_shift(scored, small_vit):
    """Where all rows are alike, shuffling and averaging them change nothing."""
    model = small_vit()
    with torch.no_grad():
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:2]
    found = scored(model, kinds=(), strengths=())
    for control in ("mean_only", "shuffled_rows"):
        values = found["probability_by_control"].sel(control=control)
        np.testing.assert_allclose(values, found["probability"], rtol=1e-4)


def by_place(found, score, kind):
    return found[f"{score}_by_place"].sel(kind=kind)


def test_a_change_is_said_of_the_tap_that_it_is_made_at(found):
    assert found["place"].values.tolist() == ["position", "block.0", "block.1", "block.2"]
    assert found["place_depth"].values.tolist() == [1, 2, 3, 4]
    for kind in KINDS:
        known = np.isfinite(by_place(found, "probability", kind)).all("image").values.tolist()
        assert known == [kind.startswith(("cls", "patch")), True, True, True], kind


def test_an_exit_after_the_last_block_is_the_model_as_it_is(found):
    for score in ("correct", "probability"):
        last = by_place(found, score, "exit").isel(place=-1)
        np.testing.assert_array_equal(last, found[score])
    early = found["centered_cosine_by_place"].sel(kind="exit", place="block.0")
    assert np.isfinite(early).all("image").values.tolist() == [True, True, False, False]


def test_patches_behind_the_last_block_are_read_by_no_one(found):
    for kind in ("patch_mean", "patch_other", "patch_zero"):
        last = by_place(found, "probability", kind).isel(place=-1)
        np.testing.assert_array_equal(last, found["probability"])
        assert not np.array_equal(by_place(found, "probability", kind)[0], found["probability"])


def test_cls_of_another_image_behind_the_last_block_gives_its_answer(found, plain, tested):
    labels = torch.tensor(tested.labels())
    order = np.random.default_rng(SETTINGS.seed).permutation(len(labels))
    taken = np.empty_like(order)
    taken[order] = np.roll(order, 1)
    assert not (taken == np.arange(len(labels))).any()
    own = logits(plain, tested)[taken].double().softmax(1)[torch.arange(len(labels)), labels]
    last = by_place(found, "probability", "cls_other").isel(place=-1)
    np.testing.assert_allclose(last, own, rtol=1e-5)


def test_cls_at_the_entry_is_one_vector_so_that_a_mean_or_another_is_the_same(found):
    for kind in ("cls_mean", "cls_other"):
        first = by_place(found, "probability", kind).isel(place=0)
        np.testing.assert_allclose(first, found["probability"], rtol=1e-5)
    zero = by_place(found, "probability", "cls_zero").isel(place=0)
    assert not np.allclose(zero, found["probability"], rtol=1e-3)


def test_the_mean_of_all_patches_leaves_every_image_the_same(found):
    first = by_place(found, "probability", "patch_mean").isel(place=0)
    for label in np.unique(found["label"]):
        same = first[found["label"].values == label]
        np.testing.assert_allclose(same, same[0], rtol=1e-4)


def identity_from(model, first):
    """The model with blocks that do nothing from one on."""
    for block in model.blocks[first:]:
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    return model


def test_whatever_is_done_to_identity_blocks_changes_nothing(scored, small_vit):
    found = scored(identity_from(small_vit(depth=4), 2), strengths=(), controls=())
    for kind in ("block_skipped", "attention_off", "to_cls_cut", "from_cls_cut", "exit"):
        for place in ("block.2", "block.3"):
            values = by_place(found, "probability", kind).sel(place=place)
            np.testing.assert_array_equal(values, found["probability"], err_msg=f"{kind} {place}")
    np.testing.assert_array_equal(
        by_place(found, "probability", "exit").sel(place="block.1"), found["probability"]
    )
    assert not np.array_equal(
        by_place(found, "probability", "block_skipped").sel(place="block.1"), found["probability"]
    )


def test_a_head_that_averages_patches_does_not_read_cls(scored, small_vit):
    found = scored(small_vit(global_pool="avg"), strengths=(), controls=())
    for kind in ("cls_mean", "cls_other", "cls_zero"):
        last = by_place(found, "probability", kind).isel(place=-1)
        np.testing.assert_array_equal(last, found["probability"])


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory, small_options):
    """What replacing [CLS] changes in a small model that was trained with a pool, on 600 digits."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {"dataset": "digits", "test_share": 0.3, "seed": 0, "limit": 600}
    images.write(images.build(settings), folder / "images.parquet", settings, "{}", "code")
    listed = images.read(folder / "images.parquet")
    kinds = ("cls_mean", "cls_other")

    def run(pool):
        torch.manual_seed(0)
        options = {**small_options, "embed_dim": 24, "global_pool": pool}
        model = build.create("vit_tiny_patch16_224", options, 10, (1, 8, 8))
        transform = build.transform(model)
        fit = training.examples(listed.of_split(FIT), transform)
        training.train(model, fit, transform, RECIPE, torch.device("cpu"))
        asked = Settings(strengths=(), controls=(), kinds=kinds, repeats=1, seed=0)
        parts = Parts(folder / f"{pool}.nc", "these things")
        tested = listed.of_split(TEST)
        values = values_of(subject_of(model), tested, asked, MACHINE, False, parts)
        return interventions.compute(values, bootstrap_samples=200)

    return run


def test_a_model_that_was_trained_to_average_patches_is_not_harmed_by_another_cls(trained_on):
    found = trained_on("avg")
    assert found["top1"].mean() > 0.4  # of ten classes
    assert (abs(found["top1_change_by_place"].mean("image")) < 0.01).all()
    assert (found["top1_change_by_place_low"] <= 0).all()
    assert (found["top1_change_by_place_high"] >= 0).all()


def test_one_that_was_trained_to_read_cls_loses_its_answer_with_it(trained_on):
    found = trained_on("token")
    assert found["top1"].mean() > 0.4
    after_a_block = found["top1_change_by_place_high"].isel(place=slice(1, None))
    assert (after_a_block < -0.2).all()


def test_the_curve_of_similarity_is_that_of_the_metric(found, plain, tested):
    states = {}
    body = plain.blocks
    hooks = [
        b.register_forward_hook(lambda _, i, o, n=n: states.update({n: o}))
        for n, b in enumerate(body)
    ]
    logits(plain, tested)
    for hook in hooks:
        hook.remove()
    about = xr.Dataset(coords={"token_kind": ("token", ["cls"] + ["patch"] * 16)})
    for number, state in states.items():
        reducer = TokenSimilarity(about, outlier_mads=5)
        reducer.update_state("tap", state)
        expected = reducer.finish(about.assign_coords(layer=["tap"]))["centered_cosine"]
        np.testing.assert_allclose(found["centered_cosine"][number + 1], expected[0], atol=1e-5)


def test_taps_before_a_change_are_as_they_were(found):
    skipped = found["centered_cosine_by_place"].sel(kind="block_skipped", place="block.1")
    np.testing.assert_array_equal(skipped[:2], found["centered_cosine"][:2])
    np.testing.assert_array_equal(skipped[2], found["centered_cosine"][1])
    assert not np.allclose(skipped[3], found["centered_cosine"][3])


def test_the_batch_changes_nothing(scored, plain, found):
    xr.testing.assert_allclose(
        scored(plain, machine=Machine(torch.device("cpu"), batch=7)), found, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        (
            {"class_token": False, "global_pool": "avg"},
            {"cls_mean", "cls_other", "cls_zero", *CUTS},
        ),
        ({"pos_embed": "none"}, {"strength", "control"}),
    ],
)
def test_what_a_model_has_not_is_absent_with_its_reason(scored, small_vit, options, absent):
    found = scored(small_vit(**options))
    assert set(absences(found)) == absent
    assert not absent & set(found["kind"].values)


def test_a_model_without_a_classifier_is_scored_by_similarity_alone(scored, small_vit):
    model = small_vit(classes=0)
    found = scored(model, strengths=(1.0,), kinds=("block_skipped", "exit"))
    assert "correct" not in found and "centered_cosine_by_place" in found
    assert set(absences(found)) == {"correct", "probability", "exit"}


def test_a_killed_run_makes_no_change_again_that_it_had_finished(
    scored, plain, found, tmp_path, monkeypatch
):
    whole, made = changed_passes._Walk._scored, []

    def dying(self, run):
        if len(made) == 20:
            raise KeyboardInterrupt
        made.append(1)
        return whole(self, run)

    monkeypatch.setattr(changed_passes._Walk, "_scored", dying)
    with pytest.raises(KeyboardInterrupt):
        scored(plain, folder=tmp_path)
    total = 1 + len(STRENGTHS) + 2 * 2 + 1 + 6 * 4 + 5 * 3
    again = []
    monkeypatch.setattr(
        changed_passes._Walk, "_scored", lambda self, run: again.append(1) or whole(self, run)
    )
    resumed = scored(plain, folder=tmp_path)
    assert len(again) == total - 20
    xr.testing.assert_identical(resumed, found)


def test_parts_of_other_things_are_not_taken(tmp_path):
    one = Parts(tmp_path / "result.nc", "one")
    one.write("a", xr.Dataset({"x": 1}))
    (one.folder / "b.nc").write_bytes(b"torn")
    assert one.read("a")["x"] == 1 and one.read("b") is None
    other = Parts(tmp_path / "result.nc", "other")
    assert other.read("a") is None and not list(other.folder.iterdir())
    other.remove()
    assert not list(tmp_path.iterdir())


def test_one_image_has_no_other(scored, plain, tested):
    with pytest.raises(VitalsError, match="2 images of the split 'test', found 1"):
        scored(plain, listed=tested.rows(0, 1))
