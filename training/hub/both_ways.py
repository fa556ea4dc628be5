"""Shows that Python's huggingface_hub and Tandem use the same cache: python both_ways.py TANDEM."""

import argparse
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "goldens" / "qwen2-untied"
NAMES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
COMMIT = "00112233445566778899aabbccddeeff00112233"
REPOSITORY = "owner/name"


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's interface that both libraries ask: the model, its tree, and its files."""

    transfers = []

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            return self.json([tree_entry(name) for name in NAMES], head)
        if path == f"/api/models/{REPOSITORY}" or path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            return self.json({"id": REPOSITORY, "sha": COMMIT, "siblings": [sibling(name) for name in NAMES]}, head)
        name = path.rsplit("/", 1)[-1]
        if "/resolve/" not in path or name not in NAMES:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = (PUBLISHED / name).read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{content_hash(name)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not head:
            Hub.transfers.append(name)
            self.wfile.write(content)

    def json(self, document, head):
        text = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if not head:
            self.wfile.write(text)


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name):
    return name.endswith(".safetensors")


def content_hash(name):
    content = (PUBLISHED / name).read_bytes()
    return hashlib.sha256(content).hexdigest() if is_large(name) else git_sha1(content)


def sibling(name):
    content = (PUBLISHED / name).read_bytes()
    lfs = {"sha256": content_hash(name), "size": len(content), "pointerSize": 134} if is_large(name) else None
    return {"rfilename": name, "size": len(content), "blobId": git_sha1(content), "lfs": lfs}


def tree_entry(name):
    content = (PUBLISHED / name).read_bytes()
    entry = {"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)}
    if is_large(name):
        entry["lfs"] = {"oid": content_hash(name), "size": len(content), "pointerSize": 134}
    return entry


def environment(endpoint, home, offline=False):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and not name.lower().endswith("_proxy")}
    return kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_TELEMETRY": "1"}


def tandem(program, arguments, env):
    done = subprocess.run([program, *arguments, "--json"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def python(code, env):
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


READS = f"""
import huggingface_hub
from huggingface_hub._tree_cache import read_tree_cache
cache = huggingface_hub.scan_cache_dir()
assert not cache.warnings, cache.warnings
[repository] = cache.repos
[revision] = repository.revisions
assert (repository.repo_id, revision.commit_hash, set(revision.refs)) == ("{REPOSITORY}", "{COMMIT}", {{"main"}}), repository
assert sorted(file.file_name for file in revision.files) == {sorted(NAMES)!r}, revision.files
for name in {NAMES!r}:
    path = huggingface_hub.hf_hub_download("{REPOSITORY}", name)
    assert huggingface_hub.try_to_load_from_cache("{REPOSITORY}", name) == path
assert read_tree_cache(str(repository.repo_path), "{COMMIT}").keys() == set({NAMES!r})
print(huggingface_hub.snapshot_download("{REPOSITORY}"))
"""

FILLS = f"""
import huggingface_hub
for name in {NAMES!r}:
    huggingface_hub.hf_hub_download("{REPOSITORY}", name)
"""

FILLS_WHOLE = f'import huggingface_hub; huggingface_hub.snapshot_download("{REPOSITORY}")'

HOLDS = """
import sys, time
from huggingface_hub.utils import WeakFileLock
with WeakFileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(2)
"""


def python_reads_what_tandem_wrote(program, endpoint, home):
    report = tandem(program, ["pull", REPOSITORY], environment(endpoint, home))
    snapshot = python(READS, environment(endpoint, home, offline=True)).strip()
    assert snapshot == report["models"][0]["directory"], snapshot
    before = len(Hub.transfers)
    python(FILLS_WHOLE, environment(endpoint, home))
    assert len(Hub.transfers) == before, "Python downloads nothing again"


def tandem_reads_what_python_wrote(program, endpoint, home, fill):
    python(fill, environment(endpoint, home))
    offline = environment(endpoint, home, offline=True)
    shown = tandem(program, ["show", REPOSITORY, "--no-load"], offline)
    assert shown["architecture"] == "qwen2", shown
    [listed] = tandem(program, ["list"], offline)["models"]
    assert (listed["model"], listed["snapshots"][0]["revisions"]) == (REPOSITORY, ["main"]), listed
    pulled = tandem(program, ["pull", REPOSITORY], environment(endpoint, home))
    assert pulled["models"][0]["received_bytes"] == 0, pulled
    assert tandem(program, ["rm", REPOSITORY], offline)["removed"][0]["n_files"] == len(NAMES)


def they_wait_for_each_other(program, endpoint, home):
    lock = home / "hub" / ".locks" / "models--owner--name" / f"{content_hash('model.safetensors')}.lock"
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    started = time.monotonic()
    tandem(program, ["pull", REPOSITORY], environment(endpoint, home))
    waited = time.monotonic() - started
    holder.wait()
    assert waited > 1.5, f"Tandem waited {waited:.1f} s for Python's lock"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tandem", type=pathlib.Path)
    program = parser.parse_args().tandem.resolve()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    cases = {
        "Python reads what Tandem wrote": python_reads_what_tandem_wrote,
        "Tandem reads what hf_hub_download wrote": lambda *a: tandem_reads_what_python_wrote(*a, FILLS),
        "Tandem reads what snapshot_download wrote": lambda *a: tandem_reads_what_python_wrote(*a, FILLS_WHOLE),
        "they wait for each other's locks": they_wait_for_each_other,
    }
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as home:
            case(program, endpoint, pathlib.Path(home))
        print(f"ok: {name}")


if __name__ == "__main__":
    main()
