"""A server of its own for every test, a small HTTP client, and a worker of pretence.

Nothing here sleeps to wait for something: `until` asks again and again, with a deadline.
SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE = 15.0

# The smallest things that pass for what they claim to be: the server only looks at first bytes.
PNG = b"\x89PNG\r\n\x1a\n" + b"not really" * 20
JPEG = b"\xff\xd8\xff\xe0" + b"not really" * 20
WEBP = b"RIFF\x10\0\0\0WEBPVP8 " + b"x" * 20


def server_program():
    named = os.environ.get("FRAMEFARM_SERVER")
    found = [pathlib.Path(named)] if named else sorted(ROOT.glob("build*/server/framefarm-server"))
    if not found or not found[0].exists():
        pytest.exit("no framefarm-server: build it, or name it in FRAMEFARM_SERVER", 77)
    return found[0]


def until(ask, deadline=DEADLINE, pause=0.01):
    """The first truthy answer of ask(); fails the test when there is none in time."""
    end = time.monotonic() + deadline
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, "nothing came within %.0f s" % deadline
        time.sleep(pause)


class Answer:
    def __init__(self, response, body):
        self.status = response.status
        self.headers = response.headers
        self.body = body

    def json(self):
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self):
        """The error object, checked for its shape."""
        answer = self.json()
        assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}, answer
        assert answer["error"]["message"] and self.headers["x-request-id"]
        return answer["error"]


class Client:
    def __init__(self, port):
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE * 3)

    def close(self):
        self.connection.close()

    def ask(self, method, path, body=None, headers=None, **query):
        if query:
            path += "?" + urllib.parse.urlencode(query)
        self.connection.request(method, path, body=body, headers=headers or {})
        response = self.connection.getresponse()
        return Answer(response, response.read())

    def get(self, path, headers=None, **query):
        return self.ask("GET", path, headers=headers, **query)

    def post(self, path, fields=None, headers=None, **query):
        body = None if fields is None else json.dumps(fields)
        extra = {} if fields is None else {"Content-Type": "application/json"}
        return self.ask("POST", path, body, {**extra, **(headers or {})}, **query)

    def delete(self, path):
        return self.ask("DELETE", path)

    def form(self, path, parts, headers=None, boundary="----formdata-undici-0123"):
        """parts: list of (name, text) or (name, filename, type, bytes)."""
        body = b""
        for part in parts:
            body += b"--" + boundary.encode() + b"\r\nContent-Disposition: form-data; name=\"" + part[0].encode() + b"\""
            if len(part) == 4:
                body += b"; filename=\"" + part[1].encode() + b"\"\r\nContent-Type: " + part[2].encode()
            body += b"\r\n\r\n" + (part[-1].encode() if isinstance(part[-1], str) else part[-1]) + b"\r\n"
        body += b"--" + boundary.encode() + b"--\r\n"
        return self.ask("POST", path, body, {"Content-Type": "multipart/form-data; boundary=" + boundary, **(headers or {})})

    def create(self, **fields):
        answer = self.post("/v1/videos", {"prompt": "a red circle moves left", **fields})
        assert answer.status == 200, answer.body
        return answer.json()

    def video(self, id):
        answer = self.get("/v1/videos/" + id)
        assert answer.status == 200, answer.body
        return answer.json()


class Server:
    """One framefarm-server on a port of its own; kill() and start() again keep the data folder."""

    def __init__(self, folder, program=None):
        self.folder = pathlib.Path(folder)
        self.program = program or server_program()
        self.process = None
        self.clients = []

    def start(self, *args, workers="0", listen="127.0.0.1:0", env=None):
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(
            [self.program, "--listen", listen, "--data", self.folder / "data", "--workers", workers, "--port-file", port_file,
             *args], stderr=self.log, env={**os.environ, **(env or {})})
        until(lambda: port_file.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log_text()
        self.port = int(port_file.read_text())
        return self

    def client(self):
        client = Client(self.port)
        self.clients.append(client)
        return client

    def log_text(self):
        return (self.folder / "log").read_text(errors="replace")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE)

    def stop(self):
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE * 2)

    def finish(self):
        for client in self.clients:
            client.close()
        if self.process and self.process.poll() is None:
            status = self.stop()
            assert status == 0, (status, self.log_text()[-3000:])


MODEL = {
    "name": "demo", "title": "Coloured shapes", "hash": "0" * 64, "takes_text": True, "takes_image": True,
    "max_segment_frames": 81, "sizes": ["192x128"],
    "defaults": {"size": "192x128", "num_frames": 81, "num_inference_steps": 4, "switch_step": 2, "flow_shift": 5.0,
                 "guidance_scale": 1.0},
    "loras": ["demo_4steps"], "examples": ["a red circle"], "vocabulary": ["red", "circle"], "note": "small",
}


class Worker:
    """Speaks the farm calls of schema/api.md, renders nothing."""

    def __init__(self, client, name="gpu-1", models=(MODEL,), **changes):
        self.client = client
        message = {"protocol": 1, "name": name, "build": "0.1.0", "host": "host", "pid": 42,
                   "device": {"kind": "cpu", "name": "pretence", "memory_bytes": 1 << 30, "precision": "f32"},
                   "models": list(models), **changes}
        self.registered = client.post("/farm/v1/register", message)
        self.id = self.registered.json().get("worker_id") if self.registered.status == 200 else None

    def lease(self, wait_ms=0, **more):
        return self.client.post("/farm/v1/lease", {"worker_id": self.id, "wait_ms": wait_ms, **more})

    def take(self, wait_ms=5000):
        answer = self.lease(wait_ms)
        assert answer.status == 200, (answer.status, answer.body)
        return answer.json()

    def about(self, task, call, **fields):
        return self.client.post("/farm/v1/tasks/%s/%s" % (task["task_id"], call),
                                {"worker_id": self.id, "lease": task["lease"], **fields})

    def beat(self, task, stage="low_noise", step=1, steps=2, fraction=0.5):
        return self.about(task, "heartbeat", stage=stage, step=step, steps=steps, fraction=fraction)

    def put(self, task, name, data, lease=None, sha256=None):
        return self.client.ask("PUT", "/farm/v1/tasks/%s/files/%s?lease=%d" % (task["task_id"], name, lease or task["lease"]),
                               data, {"X-Content-SHA256": sha256 or hashlib.sha256(data).hexdigest()})

    def file(self, task, name):
        return self.client.get("/farm/v1/tasks/%s/files/%s" % (task["task_id"], name), lease=task["lease"])

    def complete(self, task, **fields):
        timings = fields.pop("timings", [{"stage": "low_noise", "step": 0, "started_at_ms": 1700000000000, "seconds": 0.25},
                                         {"stage": "decode", "step": None, "started_at_ms": 1700000000250, "seconds": 0.5}])
        return self.about(task, "complete", timings=timings, **{"notes": ["all fine"], "result": {}, **fields})

    def work(self, task):
        """Does a whole task: puts the files it must, completes."""
        if task["kind"] == "segment":
            index = task["segment"]["index"]
            names = ["segment-%d.mp4" % index]
            if index + 1 < task["segment"]["count"]:
                names.append("last-%d.png" % index)
        else:
            names = ["video.mp4", "thumbnail.webp", "spritesheet.webp"]
        for name in names:
            answer = self.put(task, name, content(task["job_id"], name))
            assert answer.status == 200, answer.body
        answer = self.complete(task)
        assert answer.status == 200, answer.body

    def work_all(self):
        while True:
            answer = self.lease()
            if answer.status == 204:
                return
            self.work(answer.json())


def content(job_id, name):
    """What the pretended worker delivers as this file."""
    return (job_id + "/" + name + "\n").encode() * 200


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path).start()
    yield server
    server.finish()


@pytest.fixture
def client(server):
    return server.client()


@pytest.fixture
def worker(server):
    return Worker(server.client())
