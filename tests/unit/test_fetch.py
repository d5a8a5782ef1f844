"""Weights come from a hub once, and are found without it then; what is not there is named."""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants
from safetensors.torch import save

from vitals import fetch
from vitals.errors import VitalsError
from vitals.models import build, cached
from vitals.study import Study

TINY = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
B_16 = "torchvision:vit_b_16.IMAGENET1K_V1"


class Hub(BaseHTTPRequestHandler):
    """A hub of one file: what the hub's own package asks of it, and what was asked."""

    def __init__(self, path, content, asked, *arguments):
        self.file, self.content, self.asked = path, content, asked
        super().__init__(*arguments)

    def do_HEAD(self):
        self.asked.append(f"{self.command} {self.path}")
        found = self.path == self.file
        self.send_response(200 if found else 404)
        if found:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()
        return found

    def do_GET(self):
        if self.do_HEAD():
            self.wfile.write(self.content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    """A hub with random weights of a published model: its address, and what it was asked."""
    model = build.create(TINY.partition(".")[0], {}, 1000)
    asked = []
    content = save(dict(model.state_dict()))
    path = f"/timm/{TINY}/resolve/main/model.safetensors"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, path, content, asked))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def settings(**models):
    return {"study": "fetched", "images": {"dataset": "digits", "limit": 60}, "models": models}


def bare(architecture):
    """A published model without its classifier, since digits are none of its classes."""
    return {
        "architecture": architecture,
        "weights": "pretrained",
        "options": {"num_classes": 0},
    }


def vitals(folder, address, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "vitals", *arguments],
        cwd=folder,
        env={**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
    )


def test_what_was_fetched_is_loaded_without_a_network(hub, tmp_path, monkeypatch):
    address, asked = hub
    (tmp_path / "study.yaml").write_text(json.dumps(settings(vit=bare(TINY))))
    fetched = vitals(tmp_path, address, "fetch", "study.yaml", HF_HUB_OFFLINE="0")
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout.splitlines()[0] == f"vit: 5.5 M parameters of {TINY}"
    assert any(line.startswith("GET ") for line in asked)
    asked.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    study = Study(settings(vit=bare(TINY)))
    fetch.check(study)
    assert list(fetch.fetch(study)) == fetched.stdout.splitlines()[:1]
    assert not asked


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A machine without a network, whose caches are empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_weights_that_cannot_be_had_are_one_line_that_says_what_to_do(offline):
    message = f"weights of {TINY} could not be loaded: .*run `vitals fetch`"
    with pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        list(fetch.fetch(Study(settings(vit=bare(TINY)))))


@pytest.mark.parametrize(
    ("architecture", "place"),
    [
        (TINY, f"hub .of the repository timm/{TINY}, model.safetensors or pytorch_model.bin"),
        (B_16, "torch/hub/checkpoints/vit_b_16-c867db91.pth"),
    ],
)
def test_weights_that_are_not_there_are_refused_before_any_job(offline, architecture, place):
    study = Study(settings(vit=bare(architecture)))
    message = f"models.vit: .*{architecture} are not at .*{place}.*HF_HUB_OFFLINE.*`vitals fetch`"
    with pytest.raises(VitalsError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        fetch.check(study)
    (study.folder / "vit").mkdir(parents=True)
    (study.folder / "vit" / "model.safetensors").touch()  # they were loaded before
    fetch.check(study)


def test_weights_that_are_there_are_found(offline):
    repository = offline / "hub" / f"models--timm--{TINY}"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT / "model.safetensors").touch()
    file = Path(offline, "torch/hub/checkpoints/vit_b_16-c867db91.pth")
    file.parent.mkdir(parents=True)
    file.touch()
    fetch.check(Study(settings(vit=bare(TINY), theirs=bare(B_16))))


def test_a_repository_is_looked_for_at_its_revision_with_its_configuration(offline):
    snapshot = offline / "hub" / "models--someone--own" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    name = f"hf-hub:someone/own@{COMMIT}"
    (snapshot / "model.safetensors").touch()
    assert "config.json" in cached.missing(name)
    (snapshot / "config.json").touch()
    assert cached.missing(name) is None
    assert cached.missing("hf-hub:someone/own@v2") is not None


def test_where_there_is_a_network_nothing_is_asked(offline, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fetch.check(Study(settings(vit=bare(TINY))))
