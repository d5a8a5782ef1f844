"""The page holds what the files of a study hold, loads nothing, and says what it was made from."""

import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from vitals import origin
from vitals.metrics import files
from vitals.page import contents, numbers, page, template

SAID = {"spec": "{}", "code": "c0de", "modules": {"vitals": "1"}, "inputs": {"summary.csv": "2"}}


def gallery(images=("a", "b"), pictures=True):
    """Two taps of a model of 2 × 2 patches and [CLS], with one block of two heads."""
    shape = (2, len(images), 4)  # layer, image, patch
    values = np.arange(np.prod(shape), dtype=float).reshape(shape)
    found = xr.Dataset(
        {name: (("layer", "image", "patch"), values + i)
         for i, name in enumerate(contents.QUANTITIES)},
        coords={
            "layer": ["embed", "block.0"],
            "image_id": ("image", list(images)),
            "class_name": ("image", [f"class {image}" for image in images]),
            "row": ("patch", [0, 0, 1, 1]),
            "column": ("patch", [0, 1, 0, 1]),
        },
    )  # fmt: skip
    if pictures:
        drawn = np.arange(len(images) * 4, dtype=np.uint8).reshape(-1, 1, 2, 2)
        found["images"] = ("image", "color", "height", "width"), drawn
        maps = np.zeros((1, len(images), 2, 1, 5), dtype=np.uint8)
        maps[0, 0, 1] = [9, 1, 2, 3, 4]  # [CLS], then the patches
        dims = ("block", "mapped", "head", "query", "key")
        found["attention"] = xr.DataArray(maps, {"query": ["cls"]}, dims, attrs={"scale": 0.5})
    return found


@pytest.fixture
def paths(tmp_path):
    summary = {"model": ["one", "one"], "metric": "similarity", "variable": "cosine",
               "layer": ["embed", "block.0"], "depth": [0.0, 2.0], "relative_depth": [0.0, 1.0],
               "feature": "", "value": [0.5, np.nan], "low": [0.4, np.nan], "high": [0.6, np.nan],
               "unit": "1", "status": "published", "note": ["", "</script>"]}  # fmt: skip
    pd.DataFrame(summary).to_csv(tmp_path / "summary.csv", index=False)
    found = {"statement": "s", "claim": "c", "source": "abstract", "subject": ["one", "one", "two"],
             "verdict": ["supported", "supported", "not testable here"], "reason": ["", "", "why"],
             "quantity": ["q", "r", ""], "value": [1.0, 2.0, np.nan], "low": [0.5, np.nan, np.nan],
             "high": [1.5, np.nan, np.nan], "unit": ["1", "layers", ""], "rule": "r",
             "beside": ""}  # fmt: skip
    pd.DataFrame(found).to_csv(tmp_path / "findings.csv", index=False)
    made = [tmp_path / "summary.csv", tmp_path / "findings.csv"]
    for model, shown in (("one", gallery()), ("two", gallery(("b", "c"), pictures=False))):
        (tmp_path / model).mkdir()
        report = {"architecture": "vit", "parameters": 9, "accuracy": {"test": 0.5}}
        (tmp_path / model / "model.json").write_text(json.dumps(report))
        files.write(shown, tmp_path / model / "gallery.nc", spec="{}", code="")
        made += [tmp_path / model / "model.json", tmp_path / model / "gallery.nc"]
    return made


@pytest.fixture
def held(paths):
    return contents.of_files(paths, study="small", palette="colorblind", settings={"a": {"b": 1}})


def unpacked(packed):
    kind = np.dtype(packed["type"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(packed["data"]), kind).reshape(packed["shape"])


def test_it_holds_every_row_of_the_summary(held):
    assert held["summary"]["value"] == [0.5, None]
    layer = held["summary"]["layer"]
    assert [layer["names"][code] for code in layer["codes"]] == ["embed", "block.0"]


def test_it_holds_each_verdict_with_its_numbers(held):
    (statement,) = held["findings"]
    one, two = statement["verdicts"]
    assert (one["subject"], one["verdict"], two["reason"]) == ("one", "supported", "why")
    assert [number["value"] for number in one["numbers"]] == [1.0, 2.0]
    assert one["numbers"][0]["low"] == 0.5 and one["numbers"][1]["low"] is None
    assert two["numbers"] == []


def test_it_holds_the_maps_of_every_model_and_the_patches_alone_of_attention(held):
    one = held["galleries"]["one"]
    norms = unpacked(one["quantities"]["norm"])
    np.testing.assert_array_equal(norms, gallery()["norm"])
    maps = unpacked(one["attention"])
    assert maps.shape == (1, 2, 2, 1, 4) and maps[0, 0, 1, 0].tolist() == [1, 2, 3, 4]
    assert one["attention"]["scale"] == 0.5 and one["grid"] == [2, 2]
    assert "attention" not in held["galleries"]["two"]


def test_a_picture_comes_from_the_model_that_keeps_it(held):
    pictures = {image["id"]: image["picture"] for image in held["images"]}
    assert set(pictures) == {"a", "b", "c"} and pictures["c"] is None
    data = base64.b64decode(pictures["b"].partition(",")[2])
    assert np.asarray(Image.open(io.BytesIO(data))).tolist() == [[4, 5], [6, 7]]


def test_models_have_the_colours_that_figures_give_them(held):
    from matplotlib.colors import to_hex

    from vitals.figures import style

    colors = style.colors(["one", "two"], "colorblind")
    assert {m["name"]: m["color"] for m in held["models"]} == {
        name: to_hex(color) for name, color in colors.items()
    }


def test_it_is_one_file_that_names_its_origin_and_no_other_place(held, tmp_path):
    path = tmp_path / "index.html"
    page.write(held, path, **SAID)
    text = path.read_text()
    ours = text.replace(page.get_plotlyjs(), "")
    assert re.findall(r"(?:src|href)=[\"'](?!#)[^\"']+", ours) == []
    assert "default-src 'none'" in ours
    assert re.findall(r"{{[a-z]+}}", ours) == []
    said = origin.read(path)
    assert (said.spec, said.code, said.inputs) == ("{}", "c0de", {"summary.csv": "2"})


def test_no_text_of_a_study_ends_the_data(held, tmp_path):
    text = page.html(held, SAID)
    data = text.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data) == json.loads(json.dumps(held))
    assert held["summary"]["note"]["names"] == ["", "</script>"]


def test_a_number_has_six_digits_and_none_is_null():
    table = pd.DataFrame({"value": [1 / 3, np.inf, np.nan]})
    assert numbers.columns(table) == {"value": [0.333333, None, None]}


def test_another_template_is_told_apart(monkeypatch, tmp_path):
    before = template.digest()
    for name, text in template.parts().items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(template, "FOLDER", tmp_path)
    assert template.digest() == before
    (tmp_path / "page.js").write_text("")
    assert template.digest() != before
