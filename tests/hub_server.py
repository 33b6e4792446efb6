"""A Hub on the loopback: repositories in memory, over the addresses that huggingface_hub asks for."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
API = re.compile(
    r"/api/(models|datasets|spaces)/([^/]+/[^/]+?)(?:/(preupload|commit|revision|tree|branch)/([^/]+)(/.*)?)?"
)
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Files, visibility, a Space's variables; for each commit its message, paths added, paths deleted."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def sha(self):
        return hashlib.sha1(repr((len(self.commits), sorted(self.files))).encode()).hexdigest()


class Hub:
    """Repositories by kind and name ("models", "org/name"); tokens that clients sent; every address."""

    def __init__(self):
        self.repositories, self.tokens, self.requests = {}, set(), []
        self.refused = None

    def post(self, path, body):
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            kind = f"{asked.get('type') or 'model'}s"
            known = (kind, name) in self.repositories
            private = asked.get("private") or asked.get("visibility") == "private"
            self.repositories.setdefault((kind, name), Repository(private=bool(private)))
            url = f"{self.url}/{KINDS[kind]}{name}"
            return (409, {"error": "exists", "url": url}) if known else (200, {"url": url})
        if path.endswith("/variables"):
            given = json.loads(body)
            variables = self.repositories["spaces", path[len("/api/spaces/") : -len("/variables")]].variables
            variables[given["key"]] = given["value"]
            return 200, {}
        kind, name, action, _, _ = API.fullmatch(path).groups()
        if action == "preupload":
            rows = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return 200, {"files": [{**row, "shouldIgnore": False} for row in rows]}
        return 200, self._commit(self.repositories[kind, name], name, body)

    def _commit(self, repository, name, body):
        rows = [json.loads(line) for line in body.splitlines()]
        added = [r["value"]["path"] for r in rows if r["key"] == "file"]
        deleted = [r["value"]["path"] for r in rows if r["key"] == "deletedFile"]
        for path in deleted:
            del repository.files[path]
        for row in rows:
            if row["key"] == "file":
                repository.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
        repository.commits.append((rows[0]["value"]["summary"], added, deleted))
        return {"commitOid": repository.sha, "commitUrl": f"{self.url}/{name}/commit/{repository.sha}"}

    def get(self, path):
        kind, name, action, _, rest = API.fullmatch(path).groups()
        repository = self.repositories.get((kind, name))
        if repository is None or (action == "tree" and rest):
            return 404, {"error": "not found"}
        if action == "tree":
            rows = [
                {"type": "file", "path": p, "size": len(b), "oid": "0" * 40}
                for p, b in repository.files.items()
            ]
            return 200, rows
        siblings = [{"rfilename": path} for path in repository.files]
        about = {"id": name, "sha": repository.sha, "private": repository.private, "siblings": siblings}
        return 200, about


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def _serve(self, with_body):
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append((self.command, self.path))
        self.hub.tokens.add(self.headers.get("Authorization"))
        found = RESOLVE.fullmatch(path)
        if found:
            return self._resolve(found, with_body)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.refused:
            return self._send(self.hub.refused, json.dumps({"error": "refused"}).encode())
        status, answer = self.hub.post(path, body) if self.command == "POST" else self.hub.get(path)
        extra = (
            {} if status != 404 else {"X-Error-Code": "RepoNotFound" if answer is None else "EntryNotFound"}
        )
        return self._send(status, json.dumps(answer).encode(), extra)

    def _resolve(self, found, with_body):
        repository = self.hub.repositories.get(("datasets" if found[1] else "models", found[2]))
        if repository is None or found[4] not in repository.files:
            code = "RepoNotFound" if repository is None else "EntryNotFound"
            sha = {} if repository is None else {"X-Repo-Commit": repository.sha}
            return self._send(404, b"", {"X-Error-Code": code, **sha}, with_body)
        content = repository.files[found[4]]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self._send(200, content, {"X-Repo-Commit": repository.sha, "ETag": etag}, with_body)

    def _send(self, status, content, headers=None, with_body=True):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def do_GET(self):
        self._serve(True)

    def do_HEAD(self):
        self._serve(False)

    do_POST = do_GET

    def log_message(self, *args):
        pass


@contextmanager
def serve_hub(monkeypatch, token):
    """A Hub that huggingface_hub talks to in this process, with a token of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setenv("HF_TOKEN", token)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
