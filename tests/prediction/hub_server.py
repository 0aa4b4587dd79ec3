"""A server with the parts of the Hugging Face Hub's interface that models need, on loopback.

    python hub_server.py FOLDER

prints its address, and keeps the files of repositories in FOLDER/<owner>/<name>.
"""

import base64
import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(sys.argv[1])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.answer({"error": "not found"}, 404, X_Error_Code=code)

    def do_GET(self):
        path = self.path.partition("?")[0]
        info = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/[^/]+)?", path)
        file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+)", path)
        repository = ROOT / (info or file)[1] if info or file else None
        if repository is None or not repository.is_dir():
            return self.missing("RepoNotFound")
        if info:
            files = sorted(path for path in repository.rglob("*") if path.is_file())
            names = [path.relative_to(repository).as_posix() for path in files]
            if info[2] == "tree":
                entries = [
                    {"type": "file", "path": name, "size": path.stat().st_size,
                     "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
                    for name, path in zip(names, files)
                ]  # fmt: skip
                return self.answer(entries)
            siblings = [{"rfilename": name} for name in names]
            return self.answer({"id": info[1], "sha": COMMIT, "siblings": siblings})
        path = repository / file[2]
        if not path.is_file():
            return self.missing("EntryNotFound")
        content = path.read_bytes()
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.answer(content, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        address = "http://{}:{}".format(*self.server.server_address)
        if path == "/api/repos/create":
            request = json.loads(body)
            name = "/".join(filter(None, [request.get("organization"), request["name"]]))
            (ROOT / name).mkdir(parents=True)
            return self.answer({"url": f"{address}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        name = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", path)
        if name is None:
            return self.missing("RepoNotFound")
        if name[2] == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                target = ROOT / name[1] / line["value"]["path"]
                target.write_bytes(base64.b64decode(line["value"]["content"]))
        url = f"{address}/{name[1]}/commit/{COMMIT}"
        return self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url})


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print("http://{}:{}".format(*server.server_address), flush=True)
    server.serve_forever()
