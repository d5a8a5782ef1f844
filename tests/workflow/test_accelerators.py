"""One machine with several GPUs: each extraction has one that no other has at that time."""

import os
from uuid import uuid4

from small_studies import digits_study

# claims are the machine's, which may run these tests twice at once
FIRST, SECOND = (f"GPU-{uuid4()}" for _ in range(2))
TWO = f"""#!/bin/sh
echo 'GPU 0: Fake (UUID: {FIRST})'
echo 'GPU 1: Fake (UUID: {SECOND})'
"""


def test_two_extractions_at_once_take_two_accelerators(untouched, monkeypatch):
    command = untouched.folder / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text(TWO)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    study = digits_study()
    del study["models"]["seeded"]
    study["activations"]["shard_images"] = 20
    options = "--cores 2 --resources gpu=2 --set-resources train:gpu=1 extract:gpu=1"
    run = untouched.run(study, "activations", *options.split())
    assert run.returncode == 0, run.stdout
    logs = untouched.folder / "artifacts" / "small" / "vit" / "logs"
    taken = [file.read_text().splitlines()[0] for file in logs.glob("extract_*.log")]
    assert len(taken) == 3
    assert set(taken) == {f"accelerator {name}, one of 2" for name in (FIRST, SECOND)}
