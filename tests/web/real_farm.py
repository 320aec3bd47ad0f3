"""The real server with a worker of pretence: leases tasks over /farm/v1 and hands in clips from clips/ as its work.
SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

CLIPS = pathlib.Path(__file__).resolve().parent / "clips"
MODEL = {"name": "demo", "title": "Coloured shapes", "hash": "ab" * 32, "takes_text": True, "takes_image": True,
         "max_segment_frames": 81, "sizes": ["192x128", "128x192"],
         "defaults": {"size": "192x128", "num_frames": 81, "num_inference_steps": 4, "switch_step": 2, 
                      "flow_shift": 5.0, "guidance_scale": 1.0},
         "loras": ["demo_4steps"]}
# What it can draw is the installed model's own word.
FILE = json.loads((pathlib.Path(__file__).resolve().parents[2] / "models" / "demo" / "model.json").read_text())
MODEL.update({key: FILE[key] for key in ("title", "examples", "vocabulary", "note")})
STAGES = [("text", None), ("high_noise", 0), ("high_noise", 1), ("low_noise", 0), ("low_noise", 1), ("decode", None),
          ("interpolate", None), ("encode", None)]


class RealFarm:
    def __init__(self, binary, folder, web=None):
        command = [binary, "--listen", "127.0.0.1:0", "--data", str(folder), "--workers", "0"]
        self.log = folder / "server.log"
        folder.mkdir(exist_ok=True)
        self.out = open(self.log, "wb")
        if web:
            command += ["--web", str(web)]
        self.process = subprocess.Popen(command, stdout=self.out, stderr=self.out)
        self.url = self.wait_for_address()
        self.requests = []                  # as FakeFarm has them; the real one keeps no such list
        self.worker_id = None
        self.stop = threading.Event()
        self.broken = False                 # True: every task fails for good
        self.go = threading.Event()         # cleared: the worker holds its task in low noise until set

    def wait_for_address(self):
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            match = re.search(r"http://127\.0\.0\.1:\d+|127\.0\.0\.1:(?!0\b)\d+", self.log.read_text(errors="replace"))
            if match:
                return match[0] if match[0].startswith("http") else "http://" + match[0]
            threading.Event().wait(0.02)
        raise AssertionError("the server did not say where it listens:\n" + self.log.read_text(errors="replace"))

    def close(self):
        self.stop.set()
        self.go.set()
        self.process.terminate()
        self.process.wait(20)
        self.out.close()

    def call(self, method, path, body=None, headers=()):
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {}
        if body is not None:
            kind["Content-Type"] = "application/octet-stream" if raw is body else "application/json"
        request = urllib.request.Request(self.url + path, raw, {**kind, **dict(headers)}, method=method)
        with urllib.request.urlopen(request, timeout=40) as answer:
            text = answer.read()
            return json.loads(text) if text and "json" in answer.headers.get("Content-Type", "") else text

    def register(self, name="attic-cpu0"):
        self.worker_id = self.call("POST", "/farm/v1/register", {
            "protocol": 1, "name": name, "build": "0.1.0", "host": "attic", "pid": os.getpid(), "models": [MODEL],
            "device": {"kind": "cpu", "name": "AMD EPYC", "memory_bytes": 25 * 2**30, "precision": "f32"}})["worker_id"]

    def work(self):
        """The worker's loop, in a thread of its own."""
        def loop():
            while not self.stop.is_set():
                try:
                    task = self.call("POST", "/farm/v1/lease", {"worker_id": self.worker_id, "wait_ms": 1000})
                    if task:
                        self.do(task)
                except urllib.error.HTTPError as refused:
                    if refused.code != 409:     # 409: cancelled meanwhile, ask for the next
                        raise
                except OSError:
                    return                      # the server has stopped
        threading.Thread(target=loop, daemon=True).start()

    def do(self, task):
        base, who = f"/farm/v1/tasks/{task['task_id']}", {"worker_id": self.worker_id, "lease": task["lease"]}
        timings, now_ms = [], int(time.time() * 1000)
        if self.broken:
            self.call("POST", base + "/fail", {**who, "code": "device", "message": "it is gone", "retryable": False,
                                               "timings": []})
            return
        if task["kind"] == "segment":
            index = task["segment"]["index"]
            for i, (stage, step) in enumerate(STAGES):
                steps = 2 if step is not None else 0
                beat = {**who, "stage": stage, "step": step or 0, "steps": steps, "fraction": i / 8}
                while True:
                    if self.call("POST", base + "/heartbeat", beat)["cancel"]:
                        return
                    if stage != "low_noise" or self.go.wait(0.1) or self.stop.is_set():
                        break
                timings.append({"stage": stage, "step": step, "started_at_ms": now_ms + 500 * i, "seconds": 0.5})
            self.put(base, task, f"segment-{index}.mp4", "blue.mp4")
            if index + 1 < task["segment"]["count"]:
                self.put(base, task, f"last-{index}.png", "blue.webp")
        else:
            for name, clip in [("video.mp4", "blue.mp4"), ("thumbnail.webp", "blue.webp"),
                               ("spritesheet.webp", "blue-sheet.webp")]:
                self.put(base, task, name, clip)
            timings.append({"stage": "assemble", "step": None, "started_at_ms": now_ms, "seconds": 0.1})
        frames = task["request"]["num_frames"]
        self.call("POST", base + "/complete", {**who, "timings": timings, "notes": [], "result": {
            "num_frames": 2 * frames, "width": 192, "height": 128, "fps": 32, "seconds": frames / 16}})

    def put(self, base, task, name, clip):
        data = (CLIPS / clip).read_bytes()
        self.call("PUT", f"{base}/files/{name}?lease={task['lease']}", data,
                  {"X-Content-SHA256": hashlib.sha256(data).hexdigest()})
