"""Uploads by sepo beside uploads of the same files by huggingface_hub, to a small hub on this machine: routes and JSON, request by
request. Then the repository as `datasets` loads it, by its card.

    python3 -m venv venv && venv/bin/pip install huggingface_hub datasets
    venv/bin/python tests/peers/compare_hub_upload.py target/release/sepo

Xet is switched off in huggingface_hub (HF_HUB_DISABLE_XET): both then speak Git LFS. Exits with 1 where a request differs.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE, PARTS_FROM, PART = 1000, 20_000, 12_000
TOKEN = "hf_test"


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """Repositories by `datasets/org/name`, the storage, and every request that changes something."""

    def __init__(self):
        self.repositories, self.stored, self.parts, self.requests = {}, {}, {}, []
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def info(self, name):
        repository = self.repositories.get(name)
        if repository is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        siblings = [{"rfilename": path} for path in repository["files"]]
        return 200, {"id": name.split("/", 1)[1], "sha": repository["sha"], "private": repository["private"], "siblings": siblings}, {}

    def tree(self, name):
        def entry(path, content):
            large = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
            oid = "0" * 40 if len(content) >= LARGE else git_sha1(content)
            return {"type": "file", "path": path, "size": len(content), "oid": oid, **(large if len(content) >= LARGE else {})}

        return 200, [entry(path, content) for path, content in self.repositories[name]["files"].items()], {}

    def create(self, body):
        name = f"{body['type']}s/{body['organization']}/{body['name']}"
        files = {".gitattributes": b"*.parquet filter=lfs"}
        self.repositories[name] = {"sha": "a" * 40, "private": body["visibility"] == "private", "files": files}
        return 200, {"url": f"{self.endpoint}/{name}", "id": name.split("/", 1)[1]}, {}

    def preupload(self, body):
        mode = lambda file: "lfs" if file["size"] >= LARGE else "regular"
        return 200, {"files": [{"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False} for f in body["files"]]}, {}

    def batch(self, body):
        objects = []
        for item in body["objects"]:
            oid, size, answer = item["oid"], item["size"], dict(item)
            if oid not in self.stored:
                upload = {"href": f"{self.endpoint}/put/{oid}"}
                if size >= PARTS_FROM:
                    places = {str(n): f"{self.endpoint}/put/{oid}/{n}" for n in range(1, -(-size // PART) + 1)}
                    upload = {"href": f"{self.endpoint}/complete/{oid}", "header": {"chunk_size": str(PART), **places}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.endpoint}/verify"}}
            objects.append(answer)
        return 200, {"transfer": "multipart" if any("actions" in o for o in objects) else "basic", "objects": objects}, {}

    def complete(self, body):
        self.stored[body["oid"]] = b"".join(self.parts[body["oid"], part["partNumber"]] for part in body["parts"])
        return 200, {}, {}

    def verify(self, body):
        return (200 if len(self.stored[body["oid"]]) == body["size"] else 404), {}, {}

    def commit(self, name, lines):
        repository = self.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository["files"][value["path"]] = self.stored[value["oid"]]
        repository["sha"] = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
        return 200, {"commitOid": repository["sha"], "commitUrl": f"{self.endpoint}/{name}/commit/x", "success": True}, {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            raise RuntimeError(f"{self.path}: the storage takes no chunks")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status, value, headers):
        text = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, content in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        name = re.match(r"/api/((?:datasets|models)/[^/]+/[^/]+)", self.path)
        answer = self.hub.tree if "/tree/" in self.path else self.hub.info
        self.answer(*(answer(name[1]) if name else (404, {}, {})))

    def do_PUT(self):
        body = self.body()
        self.note({"bytes": len(body)})
        oid, *part = self.path.removeprefix("/put/").split("/")
        if part:
            self.hub.parts[oid, int(part[0])] = body
        else:
            self.hub.stored[oid] = body
        self.answer(200, None, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def do_POST(self):
        text, hub, path = self.body(), self.hub, self.path.split("?")[0]
        if path.startswith("/api/validate-yaml"):
            return self.answer(200, {"errors": [], "warnings": []}, {})
        lines = [json.loads(line) for line in text.splitlines()] if "/commit/" in path else []
        body = lines or json.loads(text)
        self.note(body)
        repository = re.match(r"/api/((?:datasets|models)/[^/]+/[^/]+)/", path)
        routes = {"/api/repos/create": hub.create, "/preupload/": hub.preupload, "/objects/batch": hub.batch,
                  "/complete/": hub.complete, "/verify": hub.verify, "/commit/": lambda body: hub.commit(repository[1], body)}
        route = next((route for word, route in routes.items() if word in path), None)
        self.answer(*(route(body) if route else (404, {"error": path}, {})))

    def note(self, body):
        token = {f"Bearer {TOKEN}": "token", None: "no token"}[self.headers.get("Authorization")]
        media = (self.headers.get("Content-Type") or "-").split(";")[0] if self.command == "POST" else "-"
        self.hub.requests.append((self.command, self.path.split("?")[0], media, token, body))


def ours(program, folder):
    hub = Hub()
    rows = [{"prompt": f"Question {n}?", "chosen": hashlib.sha256(b"%d" % n).hexdigest() * 8, "rejected": f"Bad {n}"} for n in range(400)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    write = "{{ write: {{ input: {0}, to: hf://datasets/org/scored, split: {1}, create: private }} }}"
    (folder / "up.yaml").write_text(
        "workdir: run\nstages:\n  pairs: { read: { from: pairs.jsonl } }\n  few: { read: { from: few.jsonl } }\n"
        f"  train: {write.format('pairs', 'train')}\n  test: {write.format('few', 'test')}\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "hf")}
    subprocess.run([program, "run", "up.yaml"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return hub


def theirs(steps):
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = Hub()
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo("org/scored", repo_type="dataset", private=True)
    for files, summary, parent in steps:
        operations = [CommitOperationAdd(path, content) for path, content in files]
        api.create_commit("org/scored", operations, commit_message=summary, repo_type="dataset", revision="main",
                          num_threads=1, parent_commit=hub.repositories["datasets/org/scored"]["sha"] if parent else None)
    return hub, huggingface_hub.__version__


def without_own(body):
    """A body without what is each program's own: the commit's message, and the commit that it is based on."""
    if isinstance(body, list):
        head = {key: "…" for key in body[0]["value"]}
        return [{"key": "header", "value": head}, *body[1:]]
    return body


def main():
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mine = ours(program, folder)
        commits = [body for _, path, _, _, body in mine.requests if "/commit/" in path]
        contents = lambda line: base64.b64decode(line["value"]["content"]) if line["key"] == "file" else mine.stored[line["value"]["oid"]]
        steps = [([(line["value"]["path"], contents(line)) for line in body[1:]], body[0]["value"]["summary"], True) for body in commits]
        other, version = theirs(steps)
        different = len(mine.requests) != len(other.requests)
        print(f"huggingface_hub {version}\n\n| request | content type | sepo | huggingface_hub | body |\n|---|---|---|---|---|")
        for (method, path, media, token, body), found in zip(mine.requests, other.requests):
            same = (method, path, media) == found[:3] and without_own(body) == without_own(found[4])
            different |= not same
            shown = re.sub(r"[0-9a-f]{64}", "OID", path)
            print(f"| `{method} {shown}` | {media} | {token} | {found[3]} | {'same' if same else 'DIFFERENT'} |")
            if not same:
                print(json.dumps(body)[:2000], "\n", found[:3], json.dumps(found[4])[:2000], file=sys.stderr)
        print(f"\n{len(mine.requests)} requests by sepo, {len(other.requests)} by huggingface_hub")
        repository = folder / "repository"
        for path, content in mine.repositories["datasets/org/scored"]["files"].items():
            (repository / path).parent.mkdir(parents=True, exist_ok=True)
            (repository / path).write_bytes(content)
        os.environ["HF_DATASETS_CACHE"], os.environ["HF_HUB_OFFLINE"] = str(folder / "cache"), "1"
        import datasets
        from huggingface_hub import DatasetCard

        card = DatasetCard.load(repository / "README.md")
        print(f"\nhuggingface_hub reads the card: tags {card.data.tags}, configs {[c['config_name'] for c in card.data.configs]}")
        loaded = datasets.load_dataset(str(repository))
        own = datasets.Features.from_arrow_schema(__import__("pyarrow.parquet").parquet.read_schema(repository / "train-00000-of-00001.parquet"))
        declared = datasets.info.DatasetInfosDict.from_directory(str(repository))["default"]
        print(f"datasets {datasets.__version__} loads {({split: rows.num_rows for split, rows in loaded.items()})}, "
              f"columns of the card and of the file are equal: {declared.features == own == loaded['train'].features}")
        different |= not declared.features == own == loaded["train"].features
        sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
