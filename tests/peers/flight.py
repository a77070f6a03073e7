#!/usr/bin/env python3
"""`sepo serve` with pyarrow.flight as its client: same rows as the Parquet, tickets that resume, slow clients, a client that
vanishes, tokens, TLS, and a stage of a run that is going on. Then throughput and memory on a large dataset.

    pip install pyarrow==26.0.1
    python tests/peers/flight.py target/release/sepo            # checks; needs openssl for a certificate
    python tests/peers/flight.py target/release/sepo --gib 1    # and a gibibyte of Parquet, made with sepo in a temporary folder
"""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"


class Server:
    def __init__(self, sepo, folder, *arguments, listen="127.0.0.1:0", env=None):
        command = [sepo, "serve", "--listen", listen, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the server did not start"

    def client(self, **options):
        return flight.connect(self.url, **options)

    def memory(self, what="VmRSS"):
        """MiB now, or at most until now (VmHWM)."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(what)).split()[1]) / 1024

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def everything():
    return flight.FlightDescriptor.for_path("")


def take(client, tickets, options=None):
    return [chunk.data for ticket in tickets for chunk in client.do_get(ticket, options)]


def tickets(client, options=None):
    return [endpoint.ticket for endpoint in client.get_flight_info(everything(), options).endpoints]


def made(**ticket):
    return flight.Ticket(json.dumps(ticket))


def refused(call, *errors):
    try:
        call()
    except errors as error:
        return str(error)
    raise AssertionError(f"not refused: {call}")


def rows(count, length, seed=0):
    """Token ids and what a score stage adds to them."""
    import numpy as np

    draw = np.random.default_rng(seed)
    sides = {}
    for side in ("prompt", "chosen", "rejected"):
        offsets = np.arange(count + 1, dtype=np.int32) * length
        ids = pa.array(draw.zipf(1.3, count * length).clip(1, 31999).astype(np.int32))
        sides[f"{side}_ids"] = pa.ListArray.from_arrays(offsets, ids)
        if side != "prompt":
            for name in ("oracle_logps", "ref_logps", "token_rewards"):
                values = pa.array(draw.normal(size=count * length).astype(np.float32))
                sides[f"{side}_{name}"] = pa.ListArray.from_arrays(offsets, values)
    return pa.table({"row_id": pa.array(range(count), pa.int64()), **sides})


def dataset(sepo, folder, files, count, length):
    """A folder `scored` that sepo wrote."""
    source = folder / "source"
    source.mkdir()
    for file in range(files):
        pq.write_table(rows(count, length, file), source / f"{file:03}.parquet", row_group_size=1024, compression="none")
    (folder / "write.yaml").write_text(
        f"workdir: {folder}/work\nstages:\n  rows: {{ read: {{ from: {source} }} }}\n"
        f"  out: {{ write: {{ input: rows, to: {folder}/scored, shard_mib: 128 }} }}\n"
    )
    subprocess.run([sepo, "run", folder / "write.yaml"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for file in source.iterdir():
        file.unlink()
    return folder / "scored"


def check_rows(sepo, folder, scored):
    with Server(sepo, folder, scored) as server:
        client = server.client()
        info = client.get_flight_info(everything())
        local = pa.concat_tables(pq.read_table(file) for file in sorted(scored.glob("*.parquet")))
        assert info.total_records == local.num_rows and info.schema.names == local.schema.names
        there = pa.Table.from_batches(take(client, tickets(client)))
        # Names of list elements aside, which readers spell in their own way.
        assert there.to_pylist() == local.to_pylist()
        assert b"huggingface" in there.schema.metadata
        rest = pa.Table.from_batches(take(client, tickets(client)[1:]))
        assert rest.to_pylist() == local.to_pylist()[local.num_rows - rest.num_rows:]
        print(f"same rows: {there.num_rows} in {len(info.endpoints)} endpoints; resumed after the first: {rest.num_rows}")
        assert len(list(client.list_flights())) == 1
        said = refused(lambda: take(client, [made(file="../write.yaml")]), pa.ArrowKeyError, flight.FlightServerError)
        print("another path:", said.split(". ")[0])
        assert server.stop() == 0


def check_slow(sepo, folder, scored):
    """Two clients that stop reading, and one that vanishes with its process."""
    file = sorted(scored.glob("*.parquet"))[0].name
    with Server(sepo, folder, scored) as server:
        first = server.client()
        take(first, tickets(first))
        before, idle = server.memory(), server.threads()
        clients = [server.client() for _ in range(2)]
        slow = [client.do_get(made(file=file)) for client in clients]
        for reader in slow:
            reader.read_chunk()
        time.sleep(1)
        held = server.memory()
        take(first, tickets(first))
        time.sleep(2)
        later = server.memory()
        print(f"slow clients: {before:.0f} MiB without, {held:.0f} MiB with two that wait, {later:.0f} MiB after a third read all")
        # The bound that docs/serve.md names; what an allocator keeps is in it.
        assert later < 300
        script = (
            f"import pyarrow.flight as f, os\nr = f.connect({server.url!r}).do_get(f.Ticket(b'{{\"file\": \"{file}\"}}'))\n"
            "r.read_chunk()\nprint('reading', flush=True)\nimport time; time.sleep(60)\n"
        )
        other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "reading\n"
        other.kill()
        other.wait()
        for reader in slow:
            rest = sum(chunk.data.num_rows for chunk in reader)
            assert rest > 0
        time.sleep(1)
        take(first, tickets(first))
        assert server.stop() == 0
        print("vanished client: the server goes on and ends with 0")


def check_access(sepo, folder, scored):
    (folder / "token").write_text("correct horse\n")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem", *names],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    bearer = lambda token: flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
    right = bearer("correct horse")
    with Server(sepo, folder, scored, "--token-file", "token", "--tls-cert", "cert.pem", "--tls-key", "key.pem") as server:
        assert server.url.startswith("grpc+tls://")
        client = server.client(tls_root_certs=(folder / "cert.pem").read_bytes())
        for options in (None, bearer("correct hors"), bearer("")):
            refused(lambda: tickets(client, options), flight.FlightUnauthenticatedError)
            refused(lambda: take(client, [made(file="x")], options), flight.FlightUnauthenticatedError)
        assert take(client, tickets(client, right), right)
        plain = flight.connect(server.url.replace("grpc+tls", "grpc"))
        refused(lambda: tickets(plain, right), flight.FlightUnavailableError, flight.FlightInternalError)
        print("token and TLS: let in with both, refused without")
    with Server(sepo, folder, scored, env={"SEPO_FLIGHT_TOKEN": "correct horse"}) as server:
        refused(lambda: tickets(server.client()), flight.FlightUnauthenticatedError)
        assert tickets(server.client(), right)
    for more, expected in (([], 2), (["--no-token"], None)):
        process = subprocess.Popen(
            [sepo, "serve", scored, "--listen", "0.0.0.0:0", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if expected is None:
            assert process.stdout.readline().startswith("grpc://0.0.0.0:")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        else:
            assert process.wait(20) == expected, process.stderr.read()
    print("other addresses: refused without a token, unless asked for")


def check_stage(sepo, folder):
    """Two shares of a run: the second begins when the client already waits for it."""
    work = folder / "stage"
    (work / "rows").mkdir(parents=True)
    for file in range(4):
        lines = [{"prompt_ids": [file + 1], "chosen_ids": [row % 40, 4], "rejected_ids": [5, row % 40]} for row in range(50)]
        (work / "rows" / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (work / "p.yaml").write_text(
        f"workdir: run\nmodels: {{ a: {{ path: {FIXTURES}/llama-tied }}, b: {{ path: {FIXTURES}/llama-untied }} }}\nstages:\n"
        "  rows: { read: { from: rows } }\n  scored: { score: { input: rows, oracle: a, reference: b } }\n"
        "  out: { write: { input: scored, to: out } }\n"
    )
    run = lambda share: subprocess.run([sepo, "run", "p.yaml", "--units", share], cwd=work, check=True, capture_output=True)
    run("1/2")
    with Server(sepo, work, "run", "--stage", "scored") as server:
        client = server.client()
        info = client.get_flight_info(everything())
        assert info.total_records == -1 and len(info.endpoints) == 4
        got, started = [], time.time()
        reading = threading.Thread(target=lambda: got.extend(take(client, [endpoint.ticket for endpoint in info.endpoints])))
        reading.start()
        time.sleep(1.5)
        early = sum(batch.num_rows for batch in got)
        assert reading.is_alive()
        run("2/2")
        reading.join(30)
        assert not reading.is_alive()
        there = pa.Table.from_batches(got)
        local = pa.concat_tables(pq.read_table(file) for file in sorted((work / "out").glob("*.parquet")))
        assert there.to_pylist() == local.to_pylist() and local.num_rows == 200
        print(f"running stage: {there.num_rows} rows, the last {time.time() - started:.1f} s after the first call (early {early})")


def measure(sepo, folder, gib):
    files, length = max(1, round(gib * 8)), 512
    scored = dataset(sepo, folder, files, 8192, length)
    size = sum(file.stat().st_size for file in scored.glob("*.parquet"))
    print(f"{size / 2**30:.2f} GiB of Parquet in {len(list(scored.glob('*.parquet')))} files")

    def local():
        total = 0
        for file in sorted(scored.glob("*.parquet")):
            for batch in pq.ParquetFile(file).iter_batches(batch_size=256):
                total += batch.nbytes
        return total

    with Server(sepo, folder, scored) as server:

        def served(streams):
            ready = tickets(server.client())
            shares = [ready[share::streams] for share in range(streams)]
            totals = [0] * streams

            def read(share):
                client = server.client()
                for ticket in shares[share]:
                    for chunk in client.do_get(ticket):
                        totals[share] += chunk.data.nbytes

            threads = [threading.Thread(target=read, args=(share,)) for share in range(streams)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            return sum(totals)

        local()
        for what, read in (("pyarrow, local", local), ("1 stream", lambda: served(1)), ("2 streams", lambda: served(2))) * 2:
            start = time.time()
            total = read()
            seconds = time.time() - start
            print(
                f"{what:16} {seconds:6.2f} s  {size / 2**20 / seconds:7.0f} MiB of Parquet a second  "
                f"{total / 2**20 / seconds:7.0f} MiB of Arrow a second  server at most {server.memory('VmHWM'):.0f} MiB"
            )
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sepo")
    parser.add_argument("--gib", type=float, help="also measure with so much Parquet")
    arguments = parser.parse_args()
    sepo = pathlib.Path(arguments.sepo).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        small = folder / "small"
        small.mkdir()
        scored = dataset(sepo, small, 2, 6000, 24)
        check_rows(sepo, small, scored)
        big = folder / "big"
        big.mkdir()
        check_slow(sepo, big, dataset(sepo, big, 1, 8192, 512))
        check_access(sepo, small, scored)
        check_stage(sepo, folder)
        if arguments.gib:
            large = folder / "large"
            large.mkdir()
            measure(sepo, large, arguments.gib)


if __name__ == "__main__":
    main()
