"""What a pass leaves in the store: tiers, names, types, and the same numbers in any cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import vitals
from small_shards import MACHINE, SETTINGS, extract_all, subject_of
from vitals.activations import store
from vitals.activations.extract import extract
from vitals.data import images
from vitals.errors import VitalsError
from vitals.models import build


def logits_of(model, digit_list):
    with torch.inference_mode():
        return model(build.transform(model)(torch.from_numpy(digit_list.pixels())))


def test_the_tiers_hold_what_the_contract_names(whole):
    tokens, pooled, gallery = (
        read(whole) for read in (vitals.open_tokens, vitals.open_pooled, vitals.open_gallery)
    )
    assert tokens["tokens"].dims == ("layer", "image", "token", "channel")
    assert tokens["attention"].dims == ("block", "image", "query", "key")
    assert pooled["pooled"].dims == ("layer", "image", "feature", "channel")
    assert pooled["logits"].dims == ("image", "class")
    assert pooled["attention_cls_inflow"].dims == ("block", "image", "head")
    assert pooled["attention_mean"].dims == ("block", "head", "query", "key")
    assert gallery["attention_heads"].dims == ("block", "image", "head", "query", "key")
    assert gallery["images"].dims == ("image", "color", "height", "width")
    for dataset in (tokens, pooled, gallery):
        assert dataset["position_embedding"].dims == ("token", "channel")
        assert dataset["head_weight"].dims == ("class", "channel")
        assert {"head_bias", "norm_scale", "norm_shift"} <= set(dataset)
    assert dict(tokens.sizes) == {
        **{"layer": 5, "image": 60, "token": 17, "channel": 16},
        **{"block": 2, "query": 17, "key": 17, "class": 10},
    }


def test_the_coordinates_are_those_of_the_contract(whole, digit_list):
    tokens, pooled = vitals.open_tokens(whole), vitals.open_pooled(whole)
    for dataset in (tokens, pooled):
        names = ["embed", "position", "block.0", "block.1", "norm"]
        assert dataset["layer"].values.tolist() == names
        assert dataset["depth"].values.tolist() == [0, 1, 2, 3, 4]
        assert dataset["label"].values.tolist() == digit_list.labels().tolist()
        for name in ("image_id", "split"):
            assert dataset[name].values.tolist() == digit_list.table[name].tolist()
            assert dataset[name].dims == ("image",)
    assert tokens["token_kind"].values.tolist() == ["cls"] + ["patch"] * 16
    assert tokens["row"].values.tolist() == [-1] + [r for r in range(4) for _ in range(4)]
    assert tokens["column"].values.tolist() == [-1] + [0, 1, 2, 3] * 4
    assert pooled["feature"].values.tolist() == ["cls", "patch_mean"]
    assert pooled["class"].values.tolist() == list("0123456789")


def test_patches_stand_where_the_image_is(whole, small_vit, digit_list):
    """A token at tap "embed" is the projection of the pixels at its row and column."""
    model = small_vit()
    tokens = vitals.open_tokens(whole)
    image = build.transform(model)(torch.from_numpy(digit_list.rows(0, 1).pixels()))[0, 0]
    weight = model.patch_embed.proj.weight[:, 0].detach()
    for token in np.flatnonzero(tokens["token_kind"] == "patch"):
        row, column = (2 * int(tokens[name][token]) for name in ("row", "column"))
        patch = image[row : row + 2, column : column + 2]
        expected = (weight * patch).sum(dim=(1, 2)) + model.patch_embed.proj.bias.detach()
        found = tokens["tokens"].sel(layer="embed")[0, token].values
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_logits_are_the_models_own(whole, small_vit, digit_list):
    expected = logits_of(small_vit(), digit_list)
    np.testing.assert_allclose(vitals.open_pooled(whole)["logits"], expected, atol=1e-5)


def test_the_classifier_reads_its_own_pooled_feature(whole):
    pooled = vitals.open_pooled(whole)
    assert pooled["head_input"].dims == ("image", "channel")
    read = pooled["head_input"] @ pooled["head_weight"].T + pooled["head_bias"]
    np.testing.assert_allclose(read.transpose(*pooled["logits"].dims), pooled["logits"], atol=1e-5)


def test_pooled_features_are_the_cls_token_and_the_mean_of_the_patches(whole):
    tokens, pooled = vitals.open_tokens(whole), vitals.open_pooled(whole)
    patches = tokens["tokens"].isel(token=tokens["token_kind"].values == "patch").mean("token")
    cls = tokens["tokens"].isel(token=0)
    for feature, expected in (("cls", cls), ("patch_mean", patches)):
        found = pooled["pooled"].sel(feature=feature)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_registers_are_in_no_feature(extracted, small_vit):
    folder = extracted(small_vit(reg_tokens=2))
    tokens, pooled = vitals.open_tokens(folder), vitals.open_pooled(folder)
    assert tokens["token_kind"].values.tolist()[:3] == ["cls", "register", "register"]
    found = pooled["pooled"].sel(feature="patch_mean")
    np.testing.assert_allclose(found, tokens["tokens"][:, :, 3:].mean("token"), atol=1e-6)


def test_a_model_without_cls_has_none_of_its_variables(extracted, small_vit):
    folder = extracted(small_vit(class_token=False, global_pool="avg"))
    pooled = vitals.open_pooled(folder)
    assert pooled["feature"].values.tolist() == ["patch_mean"]
    assert "attention_cls_inflow" not in pooled
    assert "attention_entropy" in pooled


def test_attention_means_over_heads_and_over_images_agree(extracted):
    folder = extracted(gallery_images=64)
    tokens, pooled = vitals.open_tokens(folder), vitals.open_pooled(folder)
    gallery = vitals.open_gallery(folder)
    np.testing.assert_allclose(
        pooled["attention_mean"].mean("head"), tokens["attention"].mean("image"), atol=1e-6
    )
    heads = gallery["attention_heads"].mean("head")
    of_gallery = tokens["image_id"].isin(gallery["image_id"]).values
    np.testing.assert_allclose(heads, tokens["attention"].isel(image=of_gallery), atol=1e-6)
    # inflow is linear in the map: the mean of the summaries is the summary of the mean
    inflow = pooled["attention_mean"].isel(key=0, query=slice(1, None)).mean("query") * 17
    np.testing.assert_allclose(pooled["attention_cls_inflow"].mean("image"), inflow, rtol=1e-5)


def test_the_gallery_is_the_first_test_images_with_their_pixels(whole, digit_list):
    gallery = vitals.open_gallery(whole)
    tested = digit_list.of_split("test").rows(0, 3)
    assert gallery["image_id"].values.tolist() == tested.table["image_id"].tolist()
    assert np.array_equal(gallery["images"].values, tested.pixels())


def test_the_token_tier_is_the_first_images_of_each_split(extracted, digit_list):
    folder = extracted(token_images=5)
    tokens = vitals.open_tokens(folder)
    for split in ("fit", "test"):
        expected = digit_list.of_split(split).rows(0, 5).table["image_id"].tolist()
        assert tokens["image_id"][tokens["split"] == split].values.tolist() == expected
    assert vitals.open_pooled(folder).sizes["image"] == 60


def test_without_a_gallery_there_is_none(extracted):
    folder = extracted(gallery_images=0)
    with pytest.raises(VitalsError, match=r"no shard of .* holds the tier 'gallery'"):
        vitals.open_gallery(folder)


def assert_alike(one, other):
    for read in (vitals.open_tokens, vitals.open_pooled, vitals.open_gallery):
        xr.testing.assert_allclose(read(one), read(other), atol=1e-5)
        xr.testing.assert_identical(*(read(f).coords.to_dataset() for f in (one, other)))


def test_shards_change_nothing(whole, sharded):
    assert_alike(whole, sharded)


def test_batches_change_nothing(whole, extracted):
    assert_alike(whole, extracted(machine=replace(MACHINE, batch=60)))


def test_tiers_are_of_the_whole_list_and_not_of_each_shard(extracted):
    tiers = {"token_images": 5, "gallery_images": 7}
    one = extracted(name="one", **tiers)
    other = extracted(name="other", shard_images=25, **tiers)
    assert_alike(one, other)
    assert vitals.open_gallery(other).sizes["image"] == 7


def test_float16_is_float32_rounded_and_the_pooled_tier_is_never_rounded(whole, extracted):
    exact, rounded = whole, extracted(storage="float16")
    for name in ("tokens", "attention"):
        expected, found = (vitals.open_tokens(folder)[name] for folder in (exact, rounded))
        assert found.dtype == np.float16
        assert np.array_equal(found.values, expected.values.astype(np.float16))
    assert vitals.open_gallery(rounded)["attention_heads"].dtype == np.float16
    pooled = [vitals.open_pooled(folder) for folder in (exact, rounded)]
    assert {v.dtype for v in pooled[1].data_vars.values()} == {np.dtype(np.float32)}
    xr.testing.assert_equal(*pooled)


def overflowing(small_vit):
    model = small_vit()
    with torch.no_grad():
        model.blocks[1].mlp.fc2.bias[3] = 7e4  # float16 ends at 65504
    return model


def test_a_value_too_large_for_float16_names_its_layer_and_what_to_do(
    extracted, small_vit, tmp_path
):
    message = "a value at block.1 does not fit float16: set activations.storage to float32"
    with pytest.raises(VitalsError, match=message):
        extracted(overflowing(small_vit), storage="float16")
    assert list((tmp_path / "model" / "activations").iterdir()) == []
    folder = extracted(overflowing(small_vit), storage="float32")
    assert vitals.open_tokens(folder)["tokens"].sel(layer="block.1").max() > 65504


def test_a_shard_beyond_the_last_image_is_refused(digit_list, small_vit, tmp_path):
    subject = subject_of(small_vit())
    message = "shard 1 has no images: the list has 60, a shard 60"
    with pytest.raises(VitalsError, match=message):
        extract(subject, digit_list, 1, SETTINGS, tmp_path / "1.zarr", {}, MACHINE)
    assert list(tmp_path.iterdir()) == []


def test_the_same_pass_gives_the_same_bytes(whole, extracted):
    first, again = (contents(folder) for folder in (whole, extracted()))
    assert first == again


def contents(folder):
    """Every file below the tiers of a model's first shard, by name."""
    shard = folder / "activations" / "0.zarr"
    return {f.relative_to(shard): f.read_bytes() for f in shard.glob("*/**/*") if f.is_file()}


# --- what is kept, by the settings


def test_without_attention_its_variables_are_absent_with_the_reason(extracted):
    folder = extracted(attention=False)
    tokens, pooled = vitals.open_tokens(folder), vitals.open_pooled(folder)
    assert not [name for name in (*tokens, *pooled) if "attention" in name]
    for dataset in (tokens, pooled):
        assert dataset.attrs["absent"]["attention"] == "activations.attention is false"
    with pytest.raises(VitalsError, match="holds the tier 'gallery'"):
        vitals.open_gallery(folder)


def test_attention_that_is_no_probability_is_absent_with_the_reason(extracted, small_vit):
    folder = extracted(small_vit(attn_layer="diff"))
    tokens, pooled = vitals.open_tokens(folder), vitals.open_pooled(folder)
    assert not [name for name in (*tokens, *pooled) if "attention" in name]
    for dataset in (tokens, pooled):
        assert "difference of two maps" in dataset.attrs["absent"]["attention"]
    with pytest.raises(VitalsError, match="holds the tier 'gallery'"):
        vitals.open_gallery(folder)


def test_the_stream_between_attention_and_mlp_is_kept_when_asked_for(extracted, whole):
    tokens = vitals.open_tokens(extracted(sub_blocks=True))
    assert tokens["layer"].values.tolist() == [
        *("embed", "position", "block.0.attention", "block.0"),
        *("block.1.attention", "block.1", "norm"),
    ]
    assert tokens["depth"].values.tolist() == [0, 1, 1.5, 2, 2.5, 3, 4]
    usual = vitals.open_tokens(whole)
    same = tokens["tokens"].sel(layer=usual["layer"])
    np.testing.assert_array_equal(same, usual["tokens"])


def test_a_norm_before_the_blocks_has_a_tap_of_its_own(extracted, small_vit):
    tokens = vitals.open_tokens(extracted(small_vit(pre_norm=True)))
    assert tokens["layer"].values.tolist()[:3] == ["embed", "norm_pre", "position"]
    assert tokens["depth"].values.tolist()[:4] == [0, 0.5, 1, 2]
    step = tokens["tokens"].sel(layer="norm_pre") - tokens["tokens"].sel(layer="embed")
    np.testing.assert_allclose(step - tokens["position_embedding"], 0, atol=1e-6)


def test_a_model_without_a_classifier_has_no_logits_and_keeps_the_datasets_labels(
    extracted, small_vit, digit_list
):
    pooled = vitals.open_pooled(extracted(small_vit(classes=0)))
    assert "logits" not in pooled
    assert "class" not in pooled.dims
    assert pooled.attrs["absent"]["logits"] == "the model has no classifier"
    assert pooled["label"].values.tolist() == digit_list.labels().tolist()


def test_labels_are_the_classifiers_rows(extracted, small_vit, digit_list):
    rows = np.arange(10) * 100 + 7
    pooled = vitals.open_pooled(extracted(small_vit(classes=1000), rows=rows))
    assert pooled.sizes["class"] == 1000
    assert pooled["label"].values.tolist() == rows[digit_list.labels()].tolist()


def test_a_rounded_store_keeps_the_bits_asked_for_and_the_pooled_tier_whole(extracted, whole):
    rounded, exact = (vitals.open_tokens(f) for f in (extracted(keep_bits=5, codec="zstd"), whole))
    error = abs(rounded["tokens"] / exact["tokens"] - 1).max()
    assert 2**-8 < error <= 2**-6
    pooled = vitals.open_pooled(extracted(name="again", keep_bits=5))["pooled"]
    xr.testing.assert_equal(pooled, vitals.open_pooled(whole)["pooled"])


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_codec_changes_no_value(extracted, whole, codec):
    for read in (vitals.open_tokens, vitals.open_pooled, vitals.open_gallery):
        xr.testing.assert_identical(
            read(extracted(codec=codec, name=codec)).load(), read(whole).load()
        )


def test_bfloat16_is_near_and_its_attention_still_sums_to_one(extracted, whole):
    tokens = vitals.open_tokens(extracted(precision="bfloat16"))
    exact = vitals.open_tokens(whole)["tokens"]
    difference = abs(tokens["tokens"] - exact).max()
    assert 1e-4 < difference < 0.05 * abs(exact).max()
    np.testing.assert_allclose(tokens["attention"].sum("key"), 1, atol=1e-5)


# --- batches and memory


def test_a_device_without_room_for_a_batch_gives_the_same_numbers(whole, extracted, monkeypatch):
    from vitals.activations import capture

    forward = capture.forward

    def cramped(model, body, roles, shown, *others):
        if len(shown) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(model, body, roles, shown, *others)

    monkeypatch.setattr(capture, "forward", cramped)
    assert_alike(whole, extracted())


def test_a_refused_model_is_named(extracted, small_vit, monkeypatch):
    model = small_vit()
    model.blocks[1].attn.fused_attn = False
    with pytest.raises(VitalsError, match=r"^odd: .*fused"):
        extracted(model, name="odd")


def test_a_shard_that_the_disk_cannot_hold_is_refused_before_it_begins(extracted, monkeypatch):
    import shutil

    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(VitalsError, match="GB"):
        extracted()


# --- pictures


@pytest.fixture
def photographs(tmp_path):
    """Twelve small pictures of two classes in a folder, one of them unreadable; and their list."""
    folder = tmp_path / "data"
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            levels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(levels).save(folder / name / f"{number}.png")
    torn = folder / "cat" / "2.png"
    torn.write_bytes(torn.read_bytes()[:200])
    settings = {
        **{"dataset": "folder", "path": str(folder)},
        **{"test_share": 0.5, "seed": 0, "limit": None},
    }
    images.write(images.build(settings), tmp_path / "list.parquet", settings, "{}", "code")
    return images.read(tmp_path / "list.parquet", str(folder))


@pytest.fixture
def coloured():
    options = {**{"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2}, "num_heads": 2}
    torch.manual_seed(0)
    return build.create("vit_tiny_patch16_224", options, 2)


def test_an_unreadable_image_is_named_and_nothing_is_left(photographs, coloured, tmp_path):
    with pytest.raises(VitalsError, match=r"cat/2\.png"):
        extract_all(tmp_path / "vit", coloured, photographs)
    assert list(tmp_path.glob("vit/activations/*.zarr")) == []


def test_an_unreadable_image_is_left_out_and_counted_when_asked_for(
    photographs, coloured, tmp_path, capsys
):
    folder = extract_all(tmp_path / "vit", coloured, photographs, skip_unreadable=True)
    pooled = vitals.open_pooled(folder)
    assert pooled.sizes["image"] == 11
    expected = [name for name in photographs.table["image_id"] if name != "cat/2.png"]
    assert pooled["image_id"].values.tolist() == expected
    assert store.provenance(folder / "activations" / "0.zarr")["left_out"] == ["cat/2.png"]
    assert "cat/2.png" in capsys.readouterr().err
    # nobody took its place: every image has its own logits
    with torch.inference_mode():
        for place, name in enumerate(photographs.table["image_id"]):
            if name == "cat/2.png":
                continue
            transform = build.transform(coloured)
            pixels = transform.prepare(photographs.picture(place))
            logits = coloured(transform(torch.from_numpy(pixels)[None]))[0]
            found = pooled["logits"][expected.index(name)]
            np.testing.assert_allclose(found, logits, atol=1e-5)
    assert vitals.open_tokens(folder).sizes["image"] == 11


def test_pictures_are_decoded_once_for_models_that_prepare_them_alike(
    photographs, coloured, tmp_path, monkeypatch
):
    settings = {"machine": replace(MACHINE, decoded=tmp_path / "kept"), "skip_unreadable": True}
    one = extract_all(tmp_path / "one", coloured, photographs, **settings)
    monkeypatch.setattr(type(photographs), "picture", None)  # no picture is decoded again
    other = extract_all(tmp_path / "other", coloured, photographs, **settings)
    assert contents(one) == contents(other)
