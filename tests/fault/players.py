"""Those who use the farm while it burns: people who submit, steer and watch, and workers of pretence, honest and not.

Each is a thread with a generator of its own. A line that breaks is a None, whatever the reason.
SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import http.client
import json
import pathlib
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "http"))
from conftest import MODEL, PNG, Answer  # noqa: E402
from oracle import rng_of  # noqa: E402

JSON = {"Content-Type": "application/json"}
BACKLOG = 150                    # unfinished jobs beyond which submitters rest, so that the drain has an end


class Line:
    """A keep-alive connection that breaks and is made again."""

    def __init__(self, server, timeout=20.0):
        self.server, self.timeout, self.connection = server, timeout, None

    def ask(self, method, path, body=None, headers=None):
        if isinstance(body, (dict, list)):
            body, headers = json.dumps(body), {**JSON, **(headers or {})}
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=self.timeout)
            self.connection.request(method, path, body=body, headers=headers or {})
            response = self.connection.getresponse()
            return Answer(response, response.read())
        except (OSError, http.client.HTTPException):
            self.close()
            return None

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def cut(self, method, path, body, headers, keep):
        """Sends the first `keep` of the request (1.0: all of it) and hangs up without reading."""
        head = "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % (method, path, len(body))
        head += "".join("%s: %s\r\n" % item for item in headers.items()) + "\r\n"
        whole = head.encode() + body
        try:
            with socket.create_connection(("127.0.0.1", self.server.port), self.timeout) as s:
                s.sendall(whole[:max(1, int(len(whole) * keep))])
                if keep < 1:      # a reset instead of a polite end
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass


class Player(threading.Thread):
    def __init__(self, name, server, oracle, pause=0.0):
        super().__init__(name=name, daemon=True)
        self.server, self.oracle, self.rng, self.pause = server, oracle, rng_of(oracle.seed, name), pause
        self.line, self.ending = Line(server), threading.Event()

    def run(self):
        try:
            while not self.ending.is_set():
                self.turn()
                self.ending.wait(self.rng.uniform(0, 2 * self.pause))
        except Exception as problem:  # a bug of the test, or an answer nobody expected: either must be seen
            import traceback
            self.oracle.violation(self.name, "stumbled:", repr(problem), traceback.format_exc())
        self.line.close()

    def breathe(self):
        """Nobody is there: do not ask a thousand times a second."""
        self.ending.wait(0.05)


class Submitter(Player):
    def turn(self):
        self.rng.choice([self.single, self.single, self.keyed, self.keyed, self.batch, self.image, self.cut,
                         self.garbage])()

    def request(self, marker):
        return {"prompt": marker, "model": MODEL["name"], "num_frames": self.rng.choice([5, 5, 49, 161]),
                "user": self.rng.choice(["ann", "ben", "cat"]), "priority": self.rng.randint(-1, 1)}

    def settle(self, marker, answer, once=True):
        """once: the request was sent a single time, so that a refusal is final."""
        if answer is None:
            self.oracle.count("submits whose answer was lost")
            return self.breathe()
        self.oracle.say("submit", marker, "->", answer.status)
        if answer.status == 200:
            self.oracle.accepted(marker, answer.json()["id"])
        elif 400 <= answer.status < 500 or answer.status == 507:
            if once:
                self.oracle.refused(marker)
        else:
            self.oracle.count("submits answered %d" % answer.status)

    def single(self):
        marker = self.oracle.marker()
        self.settle(marker, self.line.ask("POST", "/v1/videos", self.request(marker)))

    def keyed(self):
        marker = self.oracle.marker()
        fields, key = self.request(marker), {"Idempotency-Key": marker.replace(" ", "-")}
        for _ in range(self.rng.randint(2, 6)):        # a client that did not hear asks again; one that did may, too
            if self.rng.random() < 0.2:
                self.line.cut("POST", "/v1/videos", json.dumps(fields).encode(), {**JSON, **key}, 1.0)
            else:
                self.settle(marker, self.line.ask("POST", "/v1/videos", fields, key), once=False)

    def image(self):
        marker = self.oracle.marker()
        body = b""
        for name, value in self.request(marker).items():
            body += b"--b\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n" % (
                name.encode(), str(value).encode())
        picture = PNG + marker.encode()
        body += (b"--b\r\nContent-Disposition: form-data; name=\"input_reference\"; filename=\"a.png\"\r\n"
                 b"Content-Type: image/png\r\n\r\n" + picture + b"\r\n--b--\r\n")
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        if self.rng.random() < 0.2:
            self.line.cut("POST", "/v1/videos", body, headers, self.rng.uniform(0.1, 0.95))
            return self.oracle.refused(marker)
        self.settle(marker, self.line.ask("POST", "/v1/videos", body, headers))

    def batch(self):
        atomic, markers = self.rng.random() < 0.5, [self.oracle.marker() for _ in range(self.rng.randint(2, 12))]
        lines = [json.dumps(self.request(m)) for m in markers]
        bad = self.rng.random() < 0.3
        if bad:
            nonsense = self.rng.choice(['{"prompt": 5}', "{", '{"prompt":"x","nonsense":1}'])
            lines.insert(self.rng.randrange(len(lines)), nonsense)
        answer = self.line.ask("POST", "/v1/videos/batch" + ("?atomic=1" if atomic else ""), "\n".join(lines) + "\n",
                               {"Content-Type": "application/x-ndjson"})
        if bad and atomic:
            for m in markers:
                self.oracle.refused(m)
            return
        with self.oracle.lock:
            self.oracle.atomic.append(markers)         # one transaction either way
        if answer is None:
            return self.breathe()
        self.oracle.say("batch of", len(markers), "->", answer.status)
        if answer.status != 200:
            return
        ids = [json.loads(l) for l in answer.body.decode().splitlines()]
        good = [l["id"] for l in ids if "id" in l]
        if len(good) != len(markers):
            return self.oracle.violation("a batch of", len(markers), "good lines was answered", answer.body)
        for m, id in zip(markers, good):
            self.oracle.accepted(m, id)

    def cut(self):
        marker = self.oracle.marker()
        keep = self.rng.choice([0.3, 0.8, 0.99, 1.0])
        self.line.cut("POST", "/v1/videos", json.dumps(self.request(marker)).encode(), JSON, keep)
        if keep < 1:
            self.oracle.refused(marker)

    def garbage(self):
        body = bytes(self.rng.randrange(256) for _ in range(self.rng.randint(0, 200)))
        answer = self.line.ask("POST", "/v1/videos", body, JSON)
        if answer is not None and answer.status not in (400, 413, 415, 503):
            self.oracle.violation("garbage was answered", answer.status, answer.body[:200])


class BusySubmitter(Submitter):
    def turn(self):
        with self.oracle.lock:
            open_jobs = sum(j.final is None and not j.deleted and not j.cancelled for j in self.oracle.jobs.values())
        if open_jobs > BACKLOG:
            return self.breathe()
        super().turn()


class Steerer(Player):
    def turn(self):
        job = self.oracle.any_job(self.rng)
        if job is None:
            return self.breathe()
        path = "/v1/videos/" + job.id
        what = self.rng.choice(["cancel"] * 3 + ["delete"] * 2 + ["retry"] * 4 + ["priority"] * 3 + ["pause"])
        if what == "pause":
            self.line.ask("POST", "/v1/queue/pause")
            self.line.ask("POST", "/v1/queue/resume")
        elif what == "priority":
            self.line.ask("POST", path + "/priority", {"priority": self.rng.randint(-2, 2)})
        elif what == "retry":
            with self.oracle.lock:
                job.retries += 1
            answer = self.line.ask("POST", path + "/retry")
            self.oracle.say("retry", job.id, "->", answer and answer.status)
        elif what == "cancel":
            answer = self.line.ask("POST", path + "/cancel")
            self.oracle.say("cancel", job.id, "->", answer and answer.status)
            if answer is not None and answer.status == 200:
                with self.oracle.lock:
                    job.cancelled = True
                self.oracle.count("cancelled")
        else:
            with self.oracle.lock:
                job.deleted = job.deleted or "maybe"
            answer = self.line.ask("DELETE", path)
            self.oracle.say("delete", job.id, "->", answer and answer.status)
            if answer is not None and answer.status in (200, 404):
                with self.oracle.lock:
                    job.deleted = "yes"
                self.oracle.count("deleted")


class Watcher(Player):
    def turn(self):
        job = self.oracle.any_job(self.rng)
        if job is None:
            return self.breathe()
        retries, deleted = job.retries, job.deleted
        answer = self.line.ask("GET", "/v1/videos/" + job.id)
        if answer is None:
            return self.breathe()
        if answer.status == 404 and deleted is None and job.deleted is None:
            return self.oracle.violation("an accepted job is not there:", job.id)
        if answer.status != 200:
            return
        video = answer.json()
        if deleted == "yes":
            return self.oracle.violation("a deleted job is back:", job.id)
        self.oracle.seen(video, retries)
        if video["state"] == "completed":
            check_content(self.line, self.oracle, job, video)


def check_content(line, oracle, job, video):
    """The bytes are whole, and made under the lease that was told its completion counts."""
    answer = line.ask("GET", "/v1/videos/%s/content" % job.id)
    if answer is None or answer.status == 503 or (answer.status == 404 and job.deleted): # 503: it is being stopped
        return False
    if answer.status == 410 and oracle.files_may_go:
        return False
    if answer.status != 200:
        oracle.violation("a completed job's content was answered", answer.status, job.id, answer.body[:200])
        return False
    if hashlib.sha256(answer.body).hexdigest() != video["sha256"] or len(answer.body) != video["size_bytes"]:
        oracle.violation("a completed job's file is not whole:", job.id)
    words = answer.body[:200].decode(errors="replace").split()
    last = max(job.done, key=lambda task: int(task.rsplit(".")[-1]), default=None)
    if words[:1] == ["made"] and last is not None and job.retries == 0:
        task, lease = words[1], int(words[2])
        if task == last and lease != job.done[last]:
            oracle.violation("the file of", job.id, "was made under", lease, "but done under", job.done[last])
    return True


class Worker(Player):
    """Registers, leases, delivers; and now and then dies, comes back with old leases, sends damaged things."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.id, self.honest, self.old, self.n = None, threading.Event(), [], 0

    def register(self):
        self.n += 1
        message = {"protocol": 1, "name": "%s-%d" % (self.name, self.n), "build": "0.1.0", "host": "host", "pid": 42,
                   "device": {"kind": "cpu", "name": "pretence", "memory_bytes": 1 << 30, "precision": "f32"},
                   "models": [MODEL]}
        answer = self.line.ask("POST", "/farm/v1/register", message)
        self.id = answer.json()["worker_id"] if answer is not None and answer.status == 200 else None
        return self.id is not None

    def call(self, task, kind, **fields):
        before = self.oracle.before_call(task, kind)
        answer = self.line.ask("POST", "/farm/v1/tasks/%s/%s" % (task["task_id"], kind),
                               {"worker_id": self.id, "lease": task["lease"], **fields})
        self.oracle.after_call(before, task, kind, answer)
        return answer

    def beat(self, task):
        return self.call(task, "heartbeat", stage="low_noise", step=1, steps=2, fraction=0.5)

    def complete(self, task):
        return self.call(task, "complete", notes=[], result={}, timings=[
            {"stage": "low_noise", "step": 0, "started_at_ms": 1700000000000, "seconds": 0.25}])

    def put(self, task, name, wrong=False):
        data = ("made %s %d %s\n" % (task["task_id"], task["lease"], name)).encode() * self.rng.randint(1, 3000)
        sha256 = hashlib.sha256(data + b"x" * wrong).hexdigest()
        path = "/farm/v1/tasks/%s/files/%s?lease=%d" % (task["task_id"], name, task["lease"])
        if not self.honest.is_set() and self.rng.random() < 0.05:
            self.line.cut("PUT", path, data, {"X-Content-SHA256": sha256}, self.rng.uniform(0.05, 0.99))
            self.oracle.count("uploads cut")
        before = self.oracle.before_call(task, "put")
        answer = self.line.ask("PUT", path, data, {"X-Content-SHA256": sha256})
        self.oracle.after_call(before, task, "put", answer)
        if wrong and answer is not None and answer.status == 200:
            self.oracle.violation("a damaged upload was taken:", task["task_id"], name)
        return answer

    def turn(self):
        if self.id is None and not self.register():
            return self.breathe()
        if self.old and self.rng.random() < 0.4:
            self.haunt(self.rng.choice(self.old))
        before = self.oracle.before_lease()
        wait_ms = self.rng.choice([0, 2000, 8000])
        answer = self.line.ask("POST", "/farm/v1/lease", {"worker_id": self.id, "wait_ms": wait_ms})
        if answer is None or answer.status == 404:
            self.id = self.id if answer is None else None
            return self.breathe()
        if answer.status != 200:
            return
        task = answer.json()
        self.oracle.leased(before, task)
        self.old = (self.old + [task])[-40:]
        fates = [(60, self.work)] if self.honest.is_set() else [
            (60, self.work), (8, self.fail), (6, self.release), (8, self.sleep_over), (5, self.die), (3, self.leave)]
        self.rng.choices([f for _, f in fates], [w for w, _ in fates])[0](task)

    def insist(self, call):
        """A worker keeps what it has rendered and delivers it when the server is back."""
        for _ in range(200):
            answer = call()
            if answer is not None and answer.status < 500:
                return answer
            self.oracle.count("reports sent again")
            self.breathe()
        return None

    def work(self, task):
        if task["kind"] == "segment":
            index = task["segment"]["index"]
            names = ["segment-%d.mp4" % index] + ["last-%d.png" % index] * (index + 1 < task["segment"]["count"])
        else:
            names = ["video.mp4", "thumbnail.webp"]
        for name in ([task["start_image"]] if task.get("start_image") else []) + task.get("segments", []):
            if not self.fetch(task, name):
                return
        for name in names:
            if self.rng.random() < 0.1 and not self.honest.is_set():
                self.put(task, name, wrong=True)
            if self.rng.random() < 0.2:
                answer = self.beat(task)
                if answer is not None and (answer.status != 200 or answer.json()["cancel"]):
                    return
            answer = self.insist(lambda: self.put(task, name))
            if answer is None or answer.status != 200:
                return
        self.insist(lambda: self.complete(task))
        if self.rng.random() < 0.1:
            self.complete(task)

    def fetch(self, task, name):
        """What an earlier task or the user left is whole, and of the lease that counts."""
        answer = self.insist(lambda: self.line.ask(
            "GET", "/farm/v1/tasks/%s/files/%s?lease=%d" % (task["task_id"], name, task["lease"])))
        if answer is None or answer.status == 409:
            return False
        if answer.status != 200:
            self.oracle.violation("a file that the task needs:", name, "of", task["task_id"], "->", answer.status,
                                  answer.body[:200])
            return False
        if hashlib.sha256(answer.body).hexdigest() != answer.headers["X-Content-SHA256"]:
            self.oracle.violation(name, "of", task["task_id"], "is not whole")
        if name == "input" and not answer.body.endswith(task["request"]["prompt"].encode()):
            self.oracle.violation("another job's start image:", task["task_id"])
        words = answer.body[:100].decode(errors="replace").split()
        job = self.oracle.jobs[task["job_id"]]
        if words[0] == "made" and job.retries == 0 and job.done.get(words[1], int(words[2])) != int(words[2]):
            self.oracle.violation(name, "was made under", words[2], "but done under", job.done[words[1]])
        self.oracle.count("files fetched whole")
        return True

    def fail(self, task):
        code = self.rng.choice(["no_memory", "io", "device", "io", "format"])
        self.insist(lambda: self.call(task, "fail", code=code, message="the test says so", retryable=True, timings=[]))

    def release(self, task):
        self.insist(lambda: self.call(task, "release"))

    def leave(self, task):
        self.line.ask("POST", "/farm/v1/leave", {"worker_id": self.id})
        self.id = None

    def die(self, task):
        self.oracle.count("workers killed")
        self.line.close()
        self.id = None

    def sleep_over(self, task):
        """Still there, but silent for longer than its lease; then it delivers as if nothing had been."""
        self.oracle.count("zombies")
        self.ending.wait(self.rng.uniform(2.0, 5.0))
        self.work(task)

    def haunt(self, task):
        self.rng.choice([lambda: self.beat(task), lambda: self.complete(task), lambda: self.call(task, "release"),
                         lambda: self.put(task, "segment-0.mp4"), lambda: self.put(task, "video.mp4"),
                         lambda: self.call(task, "fail", code="format", message="old", retryable=False, timings=[])])()


def wait_until(ask, deadline, what):
    end = time.monotonic() + deadline
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, "%s did not happen within %.0f s" % (what, deadline)
        time.sleep(0.02)
