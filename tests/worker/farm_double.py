"""A farm of pretence: the server's side of the farm calls, with every answer in the test's hands.

It hands out the tasks it is given, keeps files and checks their SHA-256, and remembers every call. `on(call, answer)`
puts an answer of the test's own before the normal one; stop() and start() kill and revive it on the same port, as a
restarted server would be, with or without its memory of workers.
SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JOB = "video_" + "0" * 25 + "{:01d}"


def request_of(**changes):
    """A resolved request, as the server stores it."""
    return {"prompt": "a red circle", "negative_prompt": "", "model": "demo", "width": 96, "height": 64,
            "num_frames": 9, "fps": 32, "seed": 7, "num_inference_steps": 4, "switch_step": 2, "flow_shift": 5.0, "guidance_scale": 1.0,
            "guidance_scale_2": 1.0, "loras": [], "max_segment_frames": 81, "user": "", "priority": 0, "crf": 18,
            "has_input_reference": False, **changes}


def frames_out(frames, fps, index, count):
    new = frames if index == 0 else frames - 1
    return new if fps == 16 else 2 * new - (index == 0) + (index == count - 1)


def segment(job=0, index=0, count=1, lease=1, frames=9, start_image=None, **changes):
    request = request_of(num_frames=(frames - 1) * count + 1, max_segment_frames=frames, **changes)
    return {"task_id": f"{JOB.format(job)}.{index}", "job_id": JOB.format(job), "lease": lease, "lease_ms": 30000,
            "attempt": 1, "kind": "segment",
            "segment": {"index": index, "count": count, "first_frame": index * (frames - 1), "num_frames": frames,
                        "num_frames_out": frames_out(frames, request["fps"], index, count)},
            "request": request, "start_image": start_image}


def assemble(job=0, count=1, lease=9, frames=9, **changes):
    request = request_of(num_frames=(frames - 1) * count + 1, max_segment_frames=frames, **changes)
    return {"task_id": f"{JOB.format(job)}.{count}", "job_id": JOB.format(job), "lease": lease, "lease_ms": 30000,
            "attempt": 1, "kind": "assemble", "segments": [f"segment-{i}.mp4" for i in range(count)],
            "num_frames_out": request["num_frames"] * (request["fps"] // 16), "request": request, "start_image": None}


class Call:
    def __init__(self, name, path, headers, body):
        self.name, self.path, self.headers, self.body = name, path, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Farm:
    HEARTBEAT_MS = 100

    def __init__(self):
        self.changed = threading.Condition()
        self.tasks, self.files, self.calls, self.scripts, self.workers = [], {}, [], {}, []
        self.port, self.http = 0, None
        self.n_workers = 0
        self.start()

    # ---- life and death ----

    def start(self, forget_workers=False):
        if forget_workers:
            self.workers = []
        farm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args):
                pass

            def _serve(self):
                farm.serve(self)
            do_GET = do_POST = do_PUT = _serve

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def __init__(self, *args):
                self.sockets = set()
                super().__init__(*args)

            def process_request(self, request, address):
                self.sockets.add(request)
                super().process_request(request, address)

            def handle_error(self, request, address):
                pass                            # a torn connection is what these tests are about

        self.http = Server(("127.0.0.1", self.port), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """As kill -9 does it: no more answers, and every connection torn."""
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.http.sockets):
            try:
                connection.shutdown(2)
            except OSError:
                pass
        with self.changed:
            self.http = None
            self.changed.notify_all()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    # ---- what tests say and ask ----

    def give(self, *tasks):
        with self.changed:
            self.tasks += tasks
            self.changed.notify_all()

    def on(self, name, answer):
        """answer(call) -> (status, body), (status, body, headers), or None for the normal one. Asked before it."""
        self.scripts[name] = answer

    def seen(self, name):
        with self.changed:
            return [c for c in self.calls if c.name == name]

    def wait(self, name, count=1, check=lambda call: True, timeout=20):
        """Waits for `count` calls of that name that pass the check; returns the last."""
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                found = [c for c in self.calls if c.name == name and check(c)]
                if len(found) >= count:
                    return found[count - 1]
                if not self.changed.wait(end - time.monotonic()):
                    names = [c.name for c in self.calls]
                    raise AssertionError(f"waited in vain for {count} x {name}; calls so far: {names[-40:]}")

    # ---- answering ----

    def serve(self, handler):
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        path = handler.path.split("?")[0]
        match = re.fullmatch(r"/farm/v1/(?:tasks/([\w.]+)/)?(\w+)(?:/([\w.-]+))?", path)
        name = match.group(2) if match else path
        if name == "files":
            name = handler.command.lower() + " " + re.sub(r"-\d+", "-N", match.group(3))
        call = Call(name, handler.path, dict(handler.headers), body)
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
        answer = self.scripts.get(name, lambda _: None)(call) or self.normal(name, match, call)
        status, content, headers = (*answer, {})[:3]
        if isinstance(content, (dict, list)):
            content = json.dumps(content).encode()
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def normal(self, name, match, call):
        if name == "register":
            self.n_workers += 1
            self.workers.append(f"worker_{self.n_workers:026d}")
            return 200, {"worker_id": self.workers[-1], "lease_ms": 30000, "heartbeat_ms": self.HEARTBEAT_MS}
        if name.startswith("get "):
            content = self.files.get(match.group(3))
            if content is None:
                return 404, error("no such file", "not_found")
            return 200, content, {"X-Content-SHA256": hashlib.sha256(content).hexdigest()}
        if name.startswith("put "):
            sha = hashlib.sha256(call.body).hexdigest()
            if sha != call.headers.get("X-Content-SHA256"):
                return 422, error("damaged", "sha256")
            self.files[match.group(3)] = call.body
            return 200, {"name": match.group(3), "size_bytes": len(call.body), "sha256": sha}
        if call.json.get("worker_id") not in self.workers:
            return 404, error("who?", "unknown_worker")
        if name == "lease":
            return self.lease()
        if name == "heartbeat":
            return 200, {"cancel": False, "lease_ms": 30000}
        return 200, {}

    def lease(self):
        with self.changed:
            mine = self.http
            self.changed.wait_for(lambda: self.tasks or self.http is not mine, timeout=20)
            if self.http is mine and self.tasks:
                return 200, self.tasks.pop(0)
            return 204, b""


def error(message, code):
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
