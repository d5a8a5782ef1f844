"""How long a study takes to an object storage and back, on a server of this machine.

Repeat: `python benchmarks/object_storage.py artifacts/quick`, after `snakemake --configfile
studies/quick.yaml`. The server is moto's, in this process: it says what the steps do and cost, not
how fast a network is.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

import vitals
from vitals import object_storage

URL = "s3://bucket/study"


def _layer(model):
    layer = vitals.open_tokens(model)["tokens"].isel(layer=0).load()
    return f"{layer.nbytes / 1e6:.1f} MB"


def main(study):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        **{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    bucket = boto3.resource("s3").create_bucket(Bucket="bucket")
    model = next(study.glob("*/activations")).parent.name
    with tempfile.TemporaryDirectory() as folder:
        back = Path(folder, study.name)
        steps = {
            "push": lambda: object_storage.push(study, URL),
            "push again": lambda: object_storage.push(study, URL),
            "pull": lambda: object_storage.pull(URL, back),
            "open, and read one layer": lambda: _layer(f"{URL}/{model}"),
        }
        print("| step | seconds | says |\n|---|---|---|")
        for name, step in steps.items():
            start = time.perf_counter()
            said = step()
            print(f"| {name} | {time.perf_counter() - start:.1f} | {said} |")
    objects = list(bucket.objects.all())
    size = sum(item.size for item in objects) / 1e6
    print(f"\n{len(objects)} objects, {size:.1f} MB.")
    server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
