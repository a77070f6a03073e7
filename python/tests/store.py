"""A SeaweedFS server on free ports of this machine, as in tests/it/seaweed.rs."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

KEY, SECRET = "testkey", "testsecret"
IDENTITIES = {
    "identities": [
        {
            "name": "rw",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


@dataclass(frozen=True)
class Store:
    """A server and how to reach it."""

    port: int
    metrics: int
    bucket: str = "bucket"

    @property
    def environment(self) -> dict[str, str]:
        """What lets pyarrow and the program reach it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def files(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )


def free_port() -> int:
    """A port that is free, as is the one 10,000 above, which SeaweedFS takes too."""
    while True:
        port = random.randint(11_000, 30_000)
        try:
            for number in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


@contextmanager
def seaweedfs(weed: str, folder: Path) -> Iterator[Store]:
    (folder / "s3.json").write_text(json.dumps(IDENTITIES))
    master, volume, filer, s3, metrics = (free_port() for _ in range(5))
    command = [weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-filer", "-s3"]
    command += ["-volume.max=500", "-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-dir={folder}", f"-s3.config={folder}/s3.json", f"-master.port={master}", f"-volume.port={volume}"]
    command += [f"-filer.port={filer}", f"-s3.port={s3}", f"-metricsPort={metrics}", "-metricsIp=127.0.0.1"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(folder)})
    try:
        store = Store(s3, metrics)
        _wait(store, process, folder)
        yield store
    finally:
        process.kill()
        process.wait()


def _wait(store: Store, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the first write succeeds, which waits for the first volume."""
    deadline = time.monotonic() + 60
    while True:
        try:
            files = store.files()
            files.create_dir(store.bucket)
            with files.open_output_stream(f"{store.bucket}/warm-up") as out:
                out.write(b"x")
            return
        except OSError as error:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError((folder / "log").read_text()[-2000:]) from error
            time.sleep(0.3)
