"""What the page of a study holds: its models, numbers, findings and gallery, and what made them."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.colors import to_hex
from PIL import Image

from vitals.figures import style
from vitals.findings.files import read
from vitals.metrics import comparison, files
from vitals.metrics.results import absences
from vitals.page.numbers import columns, number, packed

SUMMARY, FINDINGS, REPORT, GALLERY = "summary.csv", "findings.csv", "model.json", "gallery.nc"
QUANTITIES = {
    "recoverability": "recoverability (R² of the embedding)",
    "norm": "norm (activation)",
    "similarity_to_mean": "cosine to the mean patch",
}
MODEL_FACTS = ("architecture", "parameters", "weights_digest", "device", "precision")


def of_files(paths: Sequence[Path], *, study: str, palette: str, settings: Any) -> dict[str, Any]:
    """All that the page shows.

    paths: summary.csv, findings.csv, and of each model, in the order of the study, model.json and
    gallery.nc; settings: what the study was made with, as the page shows it.
    """
    by_name: dict[str, list[Path]] = {}
    for path in paths:
        by_name.setdefault(path.name, []).append(path)
    reports = {path.parent.name: json.loads(path.read_text()) for path in by_name[REPORT]}
    galleries = {path.parent.name: files.read(path) for path in by_name[GALLERY]}
    colors = style.colors(reports, palette)
    versions = {name: json.loads(found.attrs["versions"]) for name, found in galleries.items()}
    return {
        "study": study,
        "models": [_model(name, report, colors[name]) for name, report in reports.items()],
        "headlines": {metric: list(names) for metric, names in comparison.HEADLINES.items()},
        "summary": columns(read(by_name[SUMMARY][0])),
        "findings": _findings(read(by_name[FINDINGS][0])),
        "images": _images(galleries),
        "quantities": QUANTITIES,
        "galleries": {name: _gallery(found) for name, found in galleries.items()},
        "settings": settings,
        "versions": next(iter(versions.values())),
    }


def _model(name: str, report: Mapping[str, Any], color: Sequence[float]) -> dict[str, Any]:
    facts = {fact: report[fact] for fact in MODEL_FACTS if fact in report}
    accuracy = {f"{split} accuracy": value for split, value in report.get("accuracy", {}).items()}
    return {"name": name, "color": to_hex(color), "facts": {**facts, **accuracy}}


def _findings(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Each statement, with the verdict of each subject and the numbers behind it."""
    statements = []
    for name, rows in found.groupby("statement", sort=False):
        said = {key: rows[key].iloc[0] for key in ("claim", "source", "rule", "beside")}
        subjects = rows.groupby(["subject", "verdict", "reason"], sort=False)
        verdicts = [
            {**dict(zip(("subject", "verdict", "reason"), key, strict=True)), "numbers": _of(part)}
            for key, part in subjects
        ]
        statements.append({"name": name, **said, "verdicts": verdicts})
    return statements


def _of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "quantity": row["quantity"],
            "unit": row["unit"],
            **{name: number(row[name]) for name in ("value", "low", "high")},
        }
        for _, row in rows.iterrows()
        if row["quantity"]
    ]


def _images(galleries: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Every image that some gallery has, with its picture where one of them holds it."""
    found: dict[str, dict[str, Any]] = {}
    for gallery in galleries.values():
        for place, image in enumerate(gallery["image_id"].values.astype(str)):
            label = str(gallery["class_name"].values[place])
            said = found.setdefault(image, {"id": image, "class": label, "picture": None})
            if said["picture"] is None and "images" in gallery:
                said["picture"] = _picture(gallery["images"].values[place])
    return list(found.values())


def _picture(pixels: np.ndarray) -> str:
    """An image (color, row, column) of bytes as a PNG that a page holds."""
    drawn = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, -1).squeeze()).save(drawn, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}"


def _gallery(gallery: xr.Dataset) -> dict[str, Any]:
    """The maps of one model: what each patch is like at each tap, and where each query looks."""
    rows, cols = (int(gallery[name].max()) + 1 for name in ("row", "column"))
    said = {
        "images": gallery["image_id"].values.astype(str).tolist(),
        "layers": gallery["layer"].values.astype(str).tolist(),
        "grid": [rows, cols],
        "quantities": {name: packed(gallery[name].values) for name in QUANTITIES},
        "absent": absences(gallery),
    }
    if "attention" in gallery:
        maps = gallery["attention"]
        prefix = maps.sizes["key"] - rows * cols
        ordered = maps.transpose("block", "mapped", "head", "query", "key")
        said["attention"] = {
            **packed(ordered.isel(key=slice(prefix, None)).values),
            "queries": gallery["query"].values.astype(str).tolist(),
            "tokens": maps.sizes["key"],
            "scale": float(maps.attrs["scale"]),
        }
    return said
