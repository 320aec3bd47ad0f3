"""The server under fire: killed, stopped, its clock and disk out of order; and the count when all is over.

SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import mmap
import os
import pathlib
import signal
import sqlite3
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "http"))
from conftest import Server  # noqa: E402
from oracle import DONE  # noqa: E402
from players import check_content, wait_until  # noqa: E402

ENDED = ("completed", "failed", "cancelled")
SHIMS = pathlib.Path(os.environ.get("FRAMEFARM_FAULT_SHIMS", "."))


def shim(name):
    found = sorted(SHIMS.glob("*%s.so" % name))
    assert found, "no %s.so in '%s': build it and name its folder in FRAMEFARM_FAULT_SHIMS" % (name, SHIMS)
    # A sanitizer's run time must come before all else; its calls go on to the shim, as the real ones would to libc.
    return ":".join([*os.environ.get("FRAMEFARM_SANITIZER", "").split(), str(found[0].resolve())])


class Weather:
    """The page that clock_and_disk.c obeys."""

    def __init__(self, path, scale=1):
        path.write_bytes(struct.pack("=4q", time.time_ns(), scale, 0, 0))
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 32)
        self.env = {"LD_PRELOAD": shim("clock_and_disk"), "FAULT_PAGE": str(path)}

    def jump(self, seconds):
        offset = struct.unpack_from("=q", self.page, 16)[0] + int(seconds * 1e9)
        struct.pack_into("=q", self.page, 16, offset)

    def disk_full(self, how):
        """0: there is room. 1: writes are cut short, then refused. 2: refused."""
        struct.pack_into("=q", self.page, 24, how)


class BurningServer(Server):
    """Keeps its port and its data however it ends."""

    def __init__(self, folder, env=None, program=None, words=("--log-level", "warn")):
        super().__init__(folder, program)
        self.words = words
        self.env, self.port, self.n_kills, self.n_stops, self.stop_seconds = env or {}, 0, 0, 0, 0.0

    def up(self):
        for _ in range(100):     # the port may still be held by a connection that is being torn down
            try:
                return self.start(*self.words, listen="127.0.0.1:%d" % self.port, env=self.env)
            except AssertionError:
                if "in use" not in self.log_text()[-400:]:
                    raise
                time.sleep(0.05)
        raise AssertionError("the port never became free")

    def died(self):
        return self.process.poll() is not None

    def kill(self):
        self.n_kills += 1
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self):
        self.n_stops += 1
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.stop_seconds = max(self.stop_seconds, time.monotonic() - begin)
        return status


def all_videos(line):
    videos, after = [], ""
    while True:
        answer = line.ask("GET", "/v1/videos?limit=100&order=asc" + after)
        assert answer is not None and answer.status == 200, answer and answer.body
        page = answer.json()
        videos += page["data"]
        if not page["has_more"]:
            return videos
        after = "&after=" + page["data"][-1]["id"]


def drain(line, oracle, deadline):
    """Everything that was accepted ends."""
    def unfinished():
        line.ask("POST", "/v1/queue/resume")
        answer = line.ask("GET", "/v1/queue")
        if answer is None:
            return None
        jobs = answer.json()["jobs"]
        return jobs["queued"] + jobs["in_progress"], jobs
    try:
        wait_until(lambda: (unfinished() or (1,))[0] == 0, deadline, "the end of all jobs")
    except AssertionError as problem:
        oracle.violation("stuck:", problem, unfinished())


def count_up(server, line, oracle):
    """What the user sees, against what was promised."""
    videos = all_videos(line)
    ids = [v["id"] for v in videos]
    if len(set(ids)) != len(ids):
        oracle.violation("a page repeats a job")
    there = {v["id"]: v for v in videos}
    for id, job in oracle.jobs.items():
        if id not in there and job.deleted is None:
            oracle.violation("an accepted job was lost:", id, job.marker)
        if id in there and job.deleted == "yes":
            oracle.violation("a deleted job is back:", id)
    of_marker = {}
    for video in videos:
        of_marker.setdefault(video["prompt"], []).append(video)
        oracle.count("ended as " + video["state"])
        check_ended(line, oracle, oracle.jobs.get(video["id"]), video)
    for marker, found in of_marker.items():
        if oracle.markers.get(marker) in (None, "never"):
            oracle.violation("a job that was refused exists:", marker)
        if len(found) > 1:
            oracle.violation("sent once, there twice:", marker)
    deleted = {j.marker for j in oracle.jobs.values() if j.deleted}
    for batch in oracle.atomic:
        n_there = sum(m in of_marker or m in deleted for m in batch)
        if n_there not in (0, len(batch)):
            oracle.violation("of a batch of", len(batch), "only", n_there, "are there")
    return there


def files_went(line, oracle, id):
    """Retention took them, and the server says so."""
    answer = line.ask("HEAD", "/v1/videos/%s/content" % id) if oracle.files_may_go else None
    return answer is not None and answer.status == 410


def check_ended(line, oracle, job, video):
    id, state = video["id"], video["state"]
    if state not in ENDED:
        oracle.violation("never ended:", id, state, video["segments"])
    if state == "failed" and not (video["error"] or {}).get("message"):
        oracle.violation("failed without a reason:", id)
    if job is None:
        return
    oracle.seen(video, job.retries)
    if state == "completed":
        if any(s["state"] != "done" for s in video["segments"]) or not (video["sha256"] or files_went(line, oracle, id)):
            oracle.violation("completed, but not all of it:", id, video["segments"])
        if check_content(line, oracle, job, video):
            oracle.count("files whole")


def count_down(server, oracle, there, data=None):
    """What is on the disk, once the server has stopped: the database and the files behind it."""
    data = data or server.folder / "data"
    db = sqlite3.connect("file:%s?mode=ro" % (data / "farm.db"), uri=True)
    if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
        oracle.violation("the database is damaged")
    for (lease, n) in db.execute("SELECT lease, count(*) FROM attempts GROUP BY lease HAVING count(*) > 1"):
        oracle.violation("lease", lease, "was given", n, "times")
    retried = {j.id for j in oracle.jobs.values() if j.retries}
    names = {row: id for row, id in db.execute("SELECT job, max(job_id) FROM files GROUP BY job")}
    twice = "SELECT job, task, count(*) FROM attempts WHERE outcome = %d GROUP BY job, task HAVING count(*) > 1" % DONE
    for row, task, n in db.execute(twice):
        if names.get(row) not in retried:
            oracle.violation("task", task, "of", names.get(row), "was done", n, "times")
    short = ("SELECT j.row, j.n_tasks, count(DISTINCT a.task) FROM jobs AS j LEFT JOIN attempts AS a "
             "ON a.job = j.row AND a.outcome = %d WHERE j.state = 2 GROUP BY j.row "
             "HAVING count(DISTINCT a.task) <> j.n_tasks" % DONE)
    for row, n_tasks, n in db.execute(short):
        oracle.violation("completed with", n, "of", n_tasks, "tasks done:", names.get(row))
    if db.execute("SELECT count(*) FROM jobs WHERE state > 1 AND lease IS NOT NULL").fetchone()[0]:
        oracle.violation("a finished job holds a lease")
    for job_id, disk_name, size, sha256 in db.execute(
            "SELECT job_id, disk_name, size_bytes, sha256 FROM files WHERE gone_ms IS NULL"):
        try:
            content = (data / "files" / job_id / disk_name).read_bytes()
        except OSError as problem:
            oracle.violation("a file that is recorded:", problem)
            continue
        if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
            oracle.violation("a file is not as recorded:", job_id, disk_name)
        oracle.count("files on disk checked")
    db.close()
