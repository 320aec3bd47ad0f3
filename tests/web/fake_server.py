#!/usr/bin/python3
"""A farm made of pretence: speaks the user side of schema/api.md and serves web/, so that the page can be tested in
states a real farm reaches only on bad days (lost server, dead workers, ten thousand jobs) and without rendering.

In tests: `with FakeFarm() as farm: farm.url, farm.add(...), farm.requests`. By hand: fake_server.py --scene full
Jobs move when tick() is called; the thread started by run() calls it with the wall clock times `speed`.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import email.parser
import email.policy
import gzip
import http.server
import json
import pathlib
import queue
import random
import re
import socketserver
import sys
import threading
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
WEB = HERE.parents[1] / "web"
CSP = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self'; script-src 'self'"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml",
         ".mp4": "video/mp4", ".webp": "image/webp"}
KNOWN_PARAMS = ("status", "user", "q", "model", "created_after", "created_before", "after", "limit", "order", "variant",
                "format", "dry_run", "atomic", "hours")
DRAWN = {"red circle": "blue", "yellow triangle": "green", "blue square": "white", "orange ball": "purple",
         "green box": "black"}      # what a prompt names is what its clip shows, where there is such a clip
CLIPS = ["blue", "green", "white", "purple", "black"]
FINISHED = ("completed", "failed", "cancelled")
STEP_SECONDS = {"text": 0.6, "high_noise": 6.4, "low_noise": 6.4, "decode": 5.1, "interpolate": 2.8, "encode": 0.9,
                "upload": 0.2}
MODEL = {
    "id": "demo", "object": "model", "owned_by": "framefarm", "title": "Coloured shapes",
    "takes_text": True,
    "takes_image": True, "max_segment_frames": 81, "sizes": ["192x128", "128x192", "128x128"],
    "defaults": {"size": "192x128", "num_frames": 81, "num_inference_steps": 4, "switch_step": 2, "flow_shift": 5.0,
                 "guidance_scale": 1.0},
    "loras": ["demo_4steps"],
    "vocabulary": ("background ball black blue box brown circle dark front green grows ground in its left middle moves night "
                   "orange pale pink purple red rest right rises rolls room shrinks slides slowly small square triangle "
                   "turns wall white yellow").split(),
    "examples": ["a red circle moves left over a blue background", "a yellow triangle turns on a green ground",
                 "a small white square grows in front of a purple wall"],
    "note": "A small model that draws coloured shapes that move, grow and turn. Other prompts give shapes too."}


class Refusal(Exception):
    def __init__(self, status, message, param=None, code=None):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def segment_frames(n_frames, most=81):
    """The rule of schema/plan.c, so that jobs have believable segments."""
    steps, per = (n_frames - 1) // 4, (most - 1) // 4
    count = -(-steps // per)
    return [4 * (steps // count + (i < steps % count)) + 1 for i in range(count)]


class FakeFarm:
    def __init__(self, port=0, speed=1.0, workers=2):
        self.lock = threading.RLock()
        self.jobs = {}                      # id -> Video, in order of age
        self.speed = speed
        self.paused = False
        self.model = dict(MODEL)
        self.disk = {"low": False, "free_bytes": 812_345_678_901, "floor_bytes": 2**31, "reserved_bytes": 123_456_789}
        self.events = True                  # False: /v1/events answers 404 and the page must poll
        self.down = False                   # True: every connection is dropped without an answer
        self.refuse = []                    # [(method, path regex, status, body)] answered before anything else
        self.requests = []                  # what the page asked: (method, path, body)
        self.most_retried = 10_000          # by one call for all
        self.listeners = []
        self.event_id = 0
        self.serial = 0
        self.offset = 0.0                   # seconds the farm's clock is ahead, so that tests need not wait
        self.timings = {}
        self.workers = [{"id": f"worker_{i}", "object": "worker", "name": f"attic-cpu{i}", "host": "attic",
                         "build": "0.1.0",
                         "device": {"kind": "cpu", "name": "AMD EPYC 9654, 2 threads", "memory_bytes": 25 * 2**30,
                                    "precision": "f32"},
                         "pid": 4200 + i,
                         "models": [{**MODEL, "name": "demo"}], "state": "idle", "task_id": None, "tasks_done": 0,
                         "tasks_failed": 0, "registered_at": int(time.time()) - 4000, "seen_at": int(time.time())}
                        for i in range(workers)]
        self.stopping = threading.Event()
        farm = self

        class Handler(FakeHandler):
            pass
        Handler.farm = farm
        self.httpd = ThreadingServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"

    # -- life ------------------------------------------------------------------------------------------------------
    def __enter__(self):
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.httpd.shutdown()
        self.httpd.server_close()

    def run(self):
        last = time.monotonic()
        while not self.stopping.wait(0.25):
            now = time.monotonic()
            self.tick((now - last) * self.speed)
            last = now

    def now(self):
        return time.time() + self.offset

    # -- jobs ------------------------------------------------------------------------------------------------------
    def add(self, prompt="a red circle moves left over a blue ground", state="queued", age=0, quiet=False, **fields):
        with self.lock:
            self.serial += 1
            job_id = f"video_01jd{self.serial:022d}"
            size = fields.pop("size", "192x128")
            width, height = map(int, size.split("x"))
            n_frames, fps = int(fields.pop("num_frames", 81)), int(fields.pop("fps", 32))
            created = int(self.now() - age)
            job = {
                "id": job_id, "object": "video", "model": "demo", "status": "queued", "progress": 0,
                "created_at": created, "completed_at": None, "expires_at": None, "prompt": prompt, "size": size,
                "seconds": f"{n_frames / 16:.2f}", "remixed_from_video_id": None, "error": None, "width": width,
                "height": height, "num_frames": n_frames, "fps": fps, "num_frames_out": n_frames * fps // 16,
                "seed": random.randrange(2**31), "num_inference_steps": 4, "switch_step": 2, "flow_shift": 5.0,
                "guidance_scale": 1.0, "guidance_scale_2": 1.0, "negative_prompt": "", "loras": None, "user": None,
                "priority": 0, "has_input_reference": False, "state": "queued", "queue_position": None,
                "started_at": None, "finished_at": None, "nobody_can_run": False, "crf": 18, "made_with": None,
                "expected_start_at": None, "expected_end_at": None, "stage": None,
                "segments": [{"index": i, "num_frames": n, "state": "ready" if i == 0 else "blocked", "stage": None,
                              "step": 0, "steps": 0, "fraction": 0.0, "worker": None, "attempt": 0}
                             for i, n in enumerate(segment_frames(n_frames))],
                "stage_durations": {}, "notes": [], "attempts": [], "size_bytes": None, "sha256": None}
            job.update(fields)
            job.setdefault("_turn", self.serial)
            self.jobs[job_id] = job
            self.timings[job_id] = []
            if state in ("in_progress", "completed"):
                self.start(job)
                if state == "completed":
                    self.offset, before = self.offset - age, self.offset
                    self.start(job)
                    while job["state"] != "completed":
                        self.advance(job, 5.0)
                    self.offset = before
            elif state == "failed":
                job["started_at"] = created + 4
                self.fail(job_id)
            elif state == "cancelled":
                self.finish(job, "cancelled", {"code": "cancelled", "message": "cancelled"}, at=created + 30)
            self.renumber()
            if not quiet:
                self.tell(job)
            return job_id

    def start(self, job, worker="attic-cpu0"):
        job.update(state="in_progress", status="in_progress", started_at=int(self.now()), queue_position=None)
        job["_clock"] = 0.0
        segment = job["segments"][0]
        segment.update(state="leased", worker=worker, attempt=1)
        left = len(job["segments"]) * self.segment_seconds(job)
        job["expected_end_at"] = int(self.now() + left)

    @staticmethod
    def segment_seconds(job):
        scale = job["segments"][0]["num_frames"] / 81
        return sum(STEP_SECONDS.values()) * scale

    def stages(self, job):
        """(stage, step, seconds) of one segment, in order."""
        scale = job["segments"][0]["num_frames"] / 81
        for stage, seconds in STEP_SECONDS.items():
            if stage == "interpolate" and job["fps"] == 16:
                continue
            high = job["switch_step"]
            n = {"high_noise": high, "low_noise": job["num_inference_steps"] - high}.get(stage)
            for step in range(n or 1):
                yield stage, step if n else None, n, seconds * scale / (n or 1)

    def advance(self, job, seconds):
        """Moves one job forward, writing a timing for each stage that ended."""
        job["_clock"] += seconds
        clock, begun = 0.0, job["started_at"] * 1000
        job["stage_durations"], timings = {}, []
        for segment in job["segments"]:
            total = clock + self.segment_seconds(job)
            worker = segment["worker"] or f"attic-cpu{segment['index'] % 2}"
            start = clock
            for stage, step, steps, took in self.stages(job):
                if clock + took > job["_clock"]:
                    part = (job["_clock"] - clock) / took
                    segment.update(state="leased", worker=worker, attempt=max(1, segment["attempt"]), stage=stage,
                                   step=step or 0, steps=steps or 0, fraction=(job["_clock"] - start) / (total - start))
                    job["stage"] = stage
                    done = sum(s["num_frames"] for s in job["segments"][:segment["index"]])
                    done += segment["num_frames"] * segment["fraction"]
                    job["progress"] = int(100 * done / sum(s["num_frames"] for s in job["segments"]))
                    self.timings[job["id"]] = timings
                    return part
                timings.append({"task": segment["index"], "attempt": max(1, segment["attempt"]), "worker": worker,
                                "outcome": "done", "stage": stage, "step": step,
                                "started_at_ms": int(begun + clock * 1000),
                                "seconds": round(took, 3)})
                job["stage_durations"][stage] = round(job["stage_durations"].get(stage, 0) + took, 3)
                clock += took
            segment.update(state="done", stage=None, step=0, steps=0, fraction=1.0, worker=worker)
        timings.append({"task": len(job["segments"]), "attempt": 1, "worker": "attic-cpu0", "outcome": "done",
                        "stage": "assemble", "step": None,
                        "started_at_ms": int(begun + clock * 1000), "seconds": 0.12})
        job["stage_durations"].update(queue=max(0.0, job["started_at"] - job["created_at"]), assemble=0.12)
        self.timings[job["id"]] = timings
        job.update(size_bytes=48211 * len(job["segments"]), sha256="ab" * 32)
        self.finish(job, "completed", None, at=int(begun / 1000 + clock))
        return 1.0

    def finish(self, job, state, error, at=None):
        at = at or int(self.now())
        job.update(state=state, status="failed" if state == "cancelled" else state, error=error, stage=None,
                   finished_at=at, completed_at=at if state == "completed" else None, queue_position=None,
                   expected_start_at=None, expected_end_at=None)
        if state == "completed":
            job["progress"] = 100

    def fail(self, job_id, code="no_memory", message="81 frames at 832x1216 need 36.5 GiB, 23.9 GiB are free"):
        with self.lock:
            job = self.jobs[job_id]
            at = (job["started_at"] or int(self.now()))
            job["attempts"] = [{"task": 0, "attempt": i + 1, "outcome": "failed", "worker": f"attic-cpu{i % 2}",
                                "code": code,
                                "message": message, "started_at": at + 20 * i, "ended_at": at + 20 * i + 9}
                               for i in range(3)]
            job["segments"][0].update(state="failed", attempt=3)
            self.finish(job, "failed", {"code": code, "message": message}, at=at + 49)
            self.renumber()
            self.tell(job)

    def complete(self, job_id):
        with self.lock:
            job = self.jobs[job_id]
            if job["state"] == "queued":
                self.start(job)
            while job["state"] == "in_progress":
                self.advance(job, 5.0)
            self.renumber()
            self.tell(job)

    def tick(self, seconds):
        with self.lock:
            running = [j for j in self.jobs.values() if j["state"] == "in_progress"]
            for job in running:
                self.advance(job, seconds)
                self.tell(job)
            waiting = self.order()
            busy = sum(j["state"] == "in_progress" for j in running)
            while waiting and not self.paused and busy < len(self.workers):
                job = waiting.pop(0)
                self.start(job, self.workers[busy]["name"])
                busy += 1
                self.tell(job)
            self.renumber()
            running = [j for j in self.jobs.values() if j["state"] == "in_progress"]
            for i, worker in enumerate(self.workers):
                job = running[i] if i < len(running) else None
                if worker["state"] == "lost":
                    continue
                worker.update(state="busy" if job else worker["state"] if worker["state"] == "draining" else "idle",
                              seen_at=int(self.now()), task_id=job and job["id"] + ".0")

    def order(self):
        waiting = [j for j in self.jobs.values() if j["state"] == "queued"]
        lines = {}
        for job in sorted(waiting, key=lambda j: j["_turn"]):
            lines.setdefault((job["priority"], job["user"]), []).append(job)
        turn = {job["id"]: (-rank, i) for (rank, _), line in lines.items() for i, job in enumerate(line)}
        return sorted(waiting, key=lambda j: (*turn[j["id"]], j["_turn"]))

    def move(self, job, beside, after):
        """The rule of server/schedule_move.c, by its outcome: own jobs in their new order get own turns, sorted."""
        job["priority"] = beside["priority"]
        line = [j for j in self.order() if (j["user"], j["priority"]) == (job["user"], job["priority"]) and j is not job]
        line.insert(line.index(beside) + after, job)
        for each, turn in zip(line, sorted(j["_turn"] for j in line)):
            each["_turn"] = turn

    def renumber(self):
        start = self.now() + 8
        for i, job in enumerate(self.order()):
            job["queue_position"] = i + 1
            took = self.segment_seconds(job) * len(job["segments"])
            job["expected_start_at"], job["expected_end_at"] = int(start), int(start + took)
            start += took / max(1, len(self.workers))

    def tell(self, job=None):
        self.push("video" if job else "queue", public(job) if job else self.queue_json())

    def push(self, kind, data):
        self.event_id += 1
        for q in self.listeners:
            q.put((f"1-{self.event_id}", kind, data))

    def queue_json(self):
        states = [j["state"] for j in self.jobs.values()]
        return {"object": "queue", "paused": self.paused, "tasks_leased": states.count("in_progress"),
                "workers": len(self.workers), "disk": self.disk,
                "last_hour": {s: sum(j["state"] == s and j["finished_at"] > self.now() - 3600 for j in self.jobs.values())
                              for s in FINISHED},
                "jobs": {s: states.count(s) for s in ("queued", "in_progress") + FINISHED}}

    def throughput_json(self, n_hours):
        first = int(self.now()) // 3600 - n_hours + 1
        hours = [{"start_at": 3600 * (first + i), **dict.fromkeys(FINISHED, 0)} for i in range(n_hours)]
        for job in self.jobs.values():
            if job["state"] in FINISHED and 0 <= (i := job["finished_at"] // 3600 - first) < n_hours:
                hours[i][job["state"]] += 1
        return {"object": "list", "data": hours}


def public(job):
    return {k: v for k, v in job.items() if not k.startswith("_")}


class ThreadingServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        if not isinstance(sys.exc_info()[1], ConnectionError):     # a page that was left; anything else is a bug here
            super().handle_error(*_)


class FakeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    farm = None

    def log_message(self, *_):
        pass

    # -- plumbing --------------------------------------------------------------------------------------------------
    def handle_one(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        farm = self.farm
        farm.requests.append((self.command, self.path, body))
        if farm.down:
            self.close_connection = True
            return
        try:
            for method, pattern, status, answer in farm.refuse:
                if method == self.command and re.search(pattern, self.path):
                    return self.send_json(answer, status)
            if url.path == "/healthz":
                return self.send_json({"status": "ok", "version": "0.1.0"})
            if not url.path.startswith("/v1/"):
                return self.send_page(url.path)
            if url.path == "/v1/events":
                return self.send_events()
            if unknown := set(query) - set(KNOWN_PARAMS):
                raise Refusal(400, f"unknown query parameter '{unknown.pop()}'")
            with farm.lock:
                answer = self.route(url.path, query, body)
            if answer is not None:
                self.send_json(answer)
        except Refusal as refusal:
            self.send_json(refusal.body, refusal.status)

    do_GET = do_POST = do_DELETE = do_HEAD = handle_one

    def send_bytes(self, data, kind, status=200, extra=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", CSP)
        for key, value in extra:
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_json(self, answer, status=200):
        self.send_bytes(json.dumps(answer).encode(), "application/json", status, [("x-request-id", "req_fake")])

    def send_page(self, path):
        file = (WEB / (path.lstrip("/") or "index.html")).resolve()
        if WEB not in file.parents or not file.is_file():
            raise Refusal(404, "no such page")
        extra = [("Cache-Control", "no-cache")]
        data = file.read_bytes()
        if "gzip" in self.headers.get("Accept-Encoding", ""):   # as the real server does with what is compiled in
            data = gzip.compress(data, 9)
            extra.append(("Content-Encoding", "gzip"))
        self.send_bytes(data, TYPES.get(file.suffix, "application/octet-stream"), extra=extra)

    def send_file(self, file):
        data, total = file.read_bytes(), file.stat().st_size
        kind = TYPES[file.suffix]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not match:
            return self.send_bytes(data, kind, extra=[("Accept-Ranges", "bytes")])
        first = int(match[1])
        last = min(int(match[2] or total - 1), total - 1)
        self.send_bytes(data[first:last + 1], kind, 206, [("Accept-Ranges", "bytes"),
                                                          ("Content-Range", f"bytes {first}-{last}/{total}")])

    def send_events(self):
        farm = self.farm
        if not farm.events:
            raise Refusal(404, "no events here")
        mine = queue.Queue()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        farm.listeners.append(mine)
        try:
            self.wfile.write(b": hello\n\n")
            while not farm.stopping.is_set() and not farm.down:
                try:
                    number, kind, data = mine.get(timeout=0.2)
                except queue.Empty:
                    continue
                self.wfile.write(f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        except OSError:
            pass
        finally:
            farm.listeners.remove(mine)

    # -- routes ----------------------------------------------------------------------------------------------------
    def route(self, path, query, body):
        farm = self.farm
        parts = path.split("/")[2:]
        if parts == ["videos"] and self.command == "POST":
            return self.submit(body, query)
        if parts == ["videos", "batch"]:
            return self.batch(body)
        if parts == ["videos", "retry"]:
            return self.retry_all(query)
        if parts == ["videos"]:
            return self.list_videos(query)
        if parts[0] == "videos":
            job = farm.jobs.get(parts[1])
            if not job:
                raise Refusal(404, f"there is no video '{parts[1]}'", code="not_found")
            return self.one_video(job, parts[2] if len(parts) > 2 else None, query, body)
        if parts == ["models"]:
            return {"object": "list", "data": [{**farm.model, "workers": len(farm.workers)}]}
        if parts == ["throughput"]:
            return farm.throughput_json(int(query.get("hours", 24)))
        if parts == ["workers"]:
            return {"object": "list", "data": farm.workers}
        if parts[0] == "workers":
            worker = next(w for w in farm.workers if w["id"] == parts[1])
            worker["state"] = "draining" if json.loads(body or b"{}").get("drain", True) else "idle"
            return worker
        if parts[0] == "queue":
            if len(parts) > 1:
                farm.paused = parts[1] == "pause"
                farm.tell()
            return farm.queue_json()
        raise Refusal(404, f"no such route {path}")

    def submit(self, body, query):
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
                b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
            fields = {}
            for part in parsed.iter_parts():
                name = part.get_param("name", header="content-disposition")
                fields[name] = True if name == "input_reference" else part.get_payload(decode=True).decode()
        else:
            fields = json.loads(body)
        fields["has_input_reference"] = bool(fields.pop("input_reference", None))
        return self.accept(fields, dry=query.get("dry_run") == "1")

    def accept(self, fields, dry=False):
        farm = self.farm
        if not fields.get("prompt", "").strip():
            raise Refusal(400, "prompt is empty", "prompt", "invalid")
        n = int(fields.get("num_frames", 81))
        if n % 4 != 1:
            raise Refusal(400, f"num_frames is {n}; it must be a multiple of 4 plus 1", "num_frames", "invalid")
        keep = {k: v for k, v in fields.items() if k in (
            "size", "num_frames", "fps", "seed", "priority", "num_inference_steps", "switch_step", "flow_shift",
            "guidance_scale", "guidance_scale_2", "negative_prompt", "loras", "has_input_reference")}
        job_id = farm.add(fields["prompt"], quiet=dry, **keep)
        job = farm.jobs[job_id]
        if dry:
            del farm.jobs[job_id], farm.timings[job_id]
            farm.renumber()
        return public(job)

    def batch(self, body):
        lines = []
        for i, line in enumerate(body.decode().splitlines(), 1):
            try:
                lines.append({"line": i, "id": self.accept(json.loads(line))["id"]})
            except Refusal as refusal:
                lines.append({"line": i, **refusal.body})
        self.send_bytes("".join(json.dumps(x) + "\n" for x in lines).encode(), "application/x-ndjson")

    def list_videos(self, query):
        jobs = list(self.farm.jobs.values())
        if query.get("status"):
            jobs = [j for j in jobs if j["state"] in query["status"].split(",")]
        if query.get("user"):
            jobs = [j for j in jobs if j["user"] == query["user"]]
        if query.get("created_after"):
            jobs = [j for j in jobs if j["created_at"] >= int(query["created_after"])]
        if query.get("created_before"):
            jobs = [j for j in jobs if j["created_at"] < int(query["created_before"])]
        if query.get("q"):
            jobs = [j for j in jobs if query["q"].lower() in j["prompt"].lower()]
        if query.get("order") == "queue":
            if query.get("status") != "queued":
                raise Refusal(400, "order: queue goes with status=queued", "order", "invalid")
            jobs = self.farm.order()
        elif query.get("order", "desc") == "desc":
            jobs.reverse()
        if query.get("after"):
            at = [i for i, j in enumerate(jobs) if j["id"] == query["after"]]
            if not at:
                raise Refusal(400, "after names no video in this list", "after", "invalid")
            jobs = jobs[at[0] + 1:]
        limit = int(query.get("limit", 20))
        page = [public(j) for j in jobs[:limit]]
        return {"object": "list", "data": page, "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None, "has_more": len(jobs) > limit}

    def retry_all(self, query):
        wanted = [j for j in self.farm.jobs.values() if j["state"] == query.get("status", "failed")
                  and query.get("user", j["user"]) == j["user"]
                  and int(query.get("created_after", 0)) <= j["created_at"] < int(query.get("created_before", 1e12))]
        page = wanted[:self.farm.most_retried]
        good = [j for j in page if not j.get("_expired")]
        for job in good:
            self.one_video(job, "retry", {}, b"")
        return {"object": "video.retried", "retried": len(good), "has_more": len(wanted) > len(page)}

    def one_video(self, job, verb, query, body):
        farm = self.farm
        if verb is None:
            if self.command == "DELETE":
                del farm.jobs[job["id"]]
                farm.renumber()
                farm.push("video.deleted", {"id": job["id"]})
                return {"id": job["id"], "object": "video.deleted", "deleted": True}
            return public(job)
        if verb == "cancel":
            if job["state"] in FINISHED:
                raise Refusal(409, f"the video is already {job['state']}", code="conflict")
            farm.finish(job, "cancelled", {"code": "cancelled", "message": "Cancelled by request."})
        elif verb == "retry":
            if job["state"] not in ("failed", "cancelled"):
                raise Refusal(409, f"the video is {job['state']}", code="conflict")
            job.update(state="queued", status="queued", error=None, completed_at=None, finished_at=None, progress=0,
                       started_at=None)
        elif verb == "priority":
            job["priority"] = json.loads(body)["priority"]
        elif verb == "move":
            (where, other_id), = json.loads(body).items()
            other = farm.jobs.get(other_id)
            if not other or where not in ("before", "after"):
                raise Refusal(404, f"there is no job '{other_id}'", code="not_found")
            if "queued" != job["state"] or "queued" != other["state"] or job["user"] != other["user"]:
                raise Refusal(409, "only waiting jobs of one user have an order", code="conflict")
            farm.move(job, other, where == "after")
        elif verb == "timings":
            rows = farm.timings[job["id"]]
            if query.get("format") == "csv":
                text = "id,task,attempt,worker,outcome,stage,step,started_at_ms,seconds\n" + "".join(
                    ",".join("" if v is None else str(v) for v in (job["id"], *row.values())) + "\n" for row in rows)
                return self.send_bytes(text.encode(), "text/csv")
            return {"object": "list", "data": rows}
        elif verb == "content":
            return self.content(job, query.get("variant", "video"))
        else:
            raise Refusal(404, "no such call")
        farm.renumber()
        farm.tell(job)
        return public(job)

    def content(self, job, variant):
        clip = "tall" if job["height"] > job["width"] else CLIPS[int(job["id"][-4:]) % len(CLIPS)]
        clip = next((name for words, name in DRAWN.items() if words in job["prompt"]), clip)
        if variant == "preview":
            if job["state"] != "in_progress" or not job["stage"]:
                raise Refusal(404, "no preview yet")
            return self.send_file(HERE / "clips" / f"{clip}-preview-{min(2, job['progress'] // 25)}.webp")
        if job["state"] != "completed":
            raise Refusal(404, f"the video is {job['state']}; there is no {variant} yet", code="not_ready")
        name = {"video": f"{clip}.mp4", "thumbnail": f"{clip}.webp", "spritesheet": f"{clip}-sheet.webp"}[variant]
        return self.send_file(HERE / "clips" / name)


# -- scenes for people ---------------------------------------------------------------------------------------------
def scene_full(farm):
    """Something of everything, for looking at the page."""
    random.seed(7)
    prompts = ["a red circle moves left over a blue background",
               "a yellow triangle turns slowly on a dark green ground",
               "a blue square rises in front of a pale wall", "an orange ball grows until it fills the purple room",
               "a green box slides to the right through black night"]
    for i in range(23):
        farm.add(prompts[i % 5], state="completed", age=9000 - i * 311, num_frames=[81, 161, 49][i % 3])
        if i == 6:
            farm.add("a castle on a hill at sunrise, drone shot", state="completed", age=7100, notes=[
                "This model knows shapes and colours only. 'castle', 'hill' and 'sunrise' were not understood."])
        if i == 11:
            farm.add("a white triangle floats up a red canyon", state="completed", age=5500, size="128x192")
        if i == 17:
            farm.add("a purple circle shrinks", state="cancelled", age=3700)
        if i == 20:
            farm.add("two white squares turn over an orange ground, very large", state="failed", age=2700,
                     size="832x1216")
    farm.add("an orange ball grows and shrinks and grows again in a purple room", num_frames=241)
    farm.add("a blue square rises in front of a pale wall, then comes to rest")
    waiting = ["a red circle rolls to the left over a blue ground", "a small pink circle grows on a brown wall",
               "a black square turns on a yellow background and then comes to rest in the middle of it",
               "a white circle moves right over a red background"]
    for i, prompt in enumerate(waiting):
        farm.add(prompt, num_frames=[81, 161, 81, 49][i], priority=5 if i == 0 else 0)
    farm.tick(1.0)
    farm.tick(27.0)
    farm.tick(6.0)
    farm.workers[0]["tasks_failed"] = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--scene", choices=["empty", "full", "many"], default="full")
    args = parser.parse_args()
    with FakeFarm(args.port, args.speed) as farm:
        if args.scene == "full":
            scene_full(farm)
        elif args.scene == "many":
            for i in range(10000):
                farm.add(f"prompt number {i}", state="completed", age=20000 - i)
        print(farm.url, flush=True)
        farm.run()


if __name__ == "__main__":
    main()
