"""Room on the disk: set aside when a job is accepted, a floor, retention; backup and check beside a running server; the log.

SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import os
import shutil
import sqlite3
import subprocess
import threading
import time

import pytest

from conftest import DEADLINE, Server, Worker, server_program, until

DAY_MS = 86400000


@pytest.fixture
def start(tmp_path):
    servers = []

    def start(*args):
        servers.append(Server(tmp_path).start(*args))
        return servers[-1]
    yield start
    for server in servers:
        server.finish()


def disk(client):
    return client.get("/v1/queue").json()["disk"]


def free_bytes(path):
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def estimate(video, crf=18):
    """The formula that schema/plan.h states."""
    pixels = video["width"] * video["height"]
    return int(2 * pixels * video["num_frames_out"] * 0.1 * 2 ** ((18 - crf) / 6) +
               3 * pixels * (len(video["segments"]) - 1)) + (2 << 20)


def test_an_accepted_job_sets_room_aside_until_it_ends(start):
    server = start()
    client, worker = server.client(), Worker(server.client())
    short, long = client.create(num_frames=81), client.create(num_frames=161, crf=6)
    assert disk(client)["reserved_bytes"] == estimate(short) + estimate(long, crf=6)
    server.kill()
    server.start()
    client, worker.client = server.client(), server.client()
    assert disk(client)["reserved_bytes"] == estimate(short) + estimate(long, crf=6)
    client.post("/v1/videos/%s/cancel" % long["id"])
    assert disk(client)["reserved_bytes"] == estimate(short)
    worker.work_all()
    assert disk(client)["reserved_bytes"] == 0


def test_what_does_not_fit_is_507_and_what_was_accepted_goes_on(start, tmp_path):
    floor = free_bytes(tmp_path) - (200 << 20)       # about 200 MiB may be used
    server = start("--min-free", str(floor))
    client, worker = server.client(), Worker(server.client())
    small = client.create(num_frames=5)
    answer = client.post("/v1/videos", {"prompt": "x", "size": "2048x2048", "num_frames": 1601})
    assert answer.status == 507 and answer.error["code"] == "no_space" and "MiB" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false" and int(answer.headers["Retry-After"]) >= 1
    lines = client.ask("POST", "/v1/videos/batch", b'{"prompt":"a","size":"2048x2048","num_frames":1601}\n'
                                                   b'{"prompt":"b","num_frames":5}\n').body.splitlines()
    assert b'"no_space"' in lines[0] and b'"id"' in lines[1]
    worker.work_all()
    assert client.video(small["id"])["status"] == "completed"


def test_below_the_floor_nothing_is_accepted_or_begun_and_everybody_is_told(start, tmp_path):
    server = start()
    client = server.client()
    id = client.create()["id"]
    assert server.stop() == 0
    server.start("--min-free", "1000T")
    client, worker = server.client(), Worker(server.client())
    assert disk(client)["low"] and client.get("/readyz").json() == {"status": "low_disk"}
    assert b"framefarm_disk_low 1\n" in client.get("/metrics").body
    assert "nothing is accepted or begun" in server.log_text()
    assert client.post("/v1/videos", {"prompt": "x"}).status == 507
    assert worker.lease().status == 204
    assert server.stop() == 0
    server.start()
    worker = Worker(server.client())
    worker.work_all()
    assert server.client().video(id)["status"] == "completed" and not disk(server.client())["low"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs to mount a small file system")
def test_a_disk_that_fills_during_an_upload_costs_the_worker_a_wait_not_the_job(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", small], capture_output=True).returncode != 0:
        pytest.skip("no right to mount")
    server = Server(small)
    try:
        server.start("--min-free", "4M")
        client, worker = server.client(), Worker(server.client())
        id = client.create(num_frames=5)["id"]
        task = worker.take()
        filler = small / "filler"
        with open(filler, "wb") as file:
            with pytest.raises(OSError):
                while True:
                    file.write(b"x" * 65536)
                    file.flush()
        answer = worker.put(task, "segment-0.mp4", b"v" * (8 << 20))
        assert answer.status == 507 and answer.error["code"] == "no_space"
        until(lambda: not list((small / "data" / "tmp").iterdir()))
        filler.unlink()
        until(lambda: not disk(client)["low"])
        worker.work(task)
        worker.work_all()
        assert client.video(id)["status"] == "completed"
        server.finish()
    finally:
        if server.process and server.process.poll() is None:
            server.kill()
        server.log.close()
        subprocess.run(["umount", "-l", small], check=True)


# ---- retention ----

def completed(server, n, **fields):
    client, worker = server.client(), Worker(server.client())
    ids = [client.create(num_frames=5, **fields)["id"] for _ in range(n)]
    worker.work_all()
    return ids


def age(server, id, days):
    """Makes a finished job older, with the server stopped."""
    server.stop()
    with sqlite3.connect(server.folder / "data" / "farm.db") as db:
        for row, finished in db.execute("SELECT row, finished_ms FROM jobs WHERE finished_ms IS NOT NULL").fetchall():
            folder = db.execute("SELECT job_id FROM files WHERE job = ? LIMIT 1", (row,)).fetchone()
            if folder and folder[0] == id:
                db.execute("UPDATE jobs SET finished_ms = ? WHERE row = ?", (finished - days * DAY_MS, row))


def test_files_expire_by_age_and_the_record_stays(start):
    server = start("--keep-days", "30")
    old, new = completed(server, 2)
    assert server.client().video(old)["expires_at"] == server.client().video(old)["finished_at"] + 30 * 86400
    age(server, old, 31)
    server.start("--keep-days", "30")
    client = server.client()
    until(lambda: client.get("/v1/videos/%s/content" % old).status == 410)
    answer = client.get("/v1/videos/%s/content" % old)
    assert answer.error["code"] == "expired"
    video = client.video(old)
    assert video["status"] == "completed" and video["expires_at"] <= time.time() + 1 and video["size_bytes"] is None
    assert client.get("/v1/videos/%s/content" % new).status == 200
    until(lambda: not (server.folder / "data" / "files" / old).exists())
    assert client.post("/v1/videos/%s/retry" % old).status == 409


def test_files_expire_by_sum_oldest_end_first_and_never_of_unfinished_jobs(start):
    server = start()
    ids = completed(server, 4)
    client, worker = server.client(), Worker(server.client())
    running = client.create(num_frames=5)["id"]
    task = worker.take()
    worker.put(task, "segment-0.mp4", b"x" * 100000)
    each = sum(p.stat().st_size for p in (server.folder / "data" / "files" / ids[0]).iterdir())
    assert server.stop() == 0
    server.start("--keep-bytes", str(2 * each + 10))
    client = server.client()
    until(lambda: [client.get("/v1/videos/%s/content" % id).status for id in ids] == [410, 410, 200, 200])
    assert (server.folder / "data" / "files" / running).exists()
    worker.client = server.client()
    worker.complete(task)
    worker.work_all()
    assert client.video(running)["status"] == "completed"


def test_old_records_are_forgotten_altogether(start):
    server = start()
    old, new = completed(server, 2)
    with sqlite3.connect(server.folder / "data" / "farm.db") as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] == 2
    server.stop()
    # A row's number holds when the job was made, so an old job is one made by a server with an old clock.
    with sqlite3.connect(server.folder / "data" / "farm.db") as db:
        row = db.execute("SELECT min(row) FROM jobs").fetchone()[0]
        for table, column in (("jobs", "row"), ("attempts", "job"), ("files", "job")):
            db.execute("UPDATE %s SET %s = %s - (40 * %d << 20) WHERE %s = %d" % (table, column, column, DAY_MS, column, row))
        db.execute("UPDATE jobs SET finished_ms = finished_ms - 40 * %d WHERE row < %d" % (DAY_MS, row))
    server.start("--forget-days", "30")
    client = server.client()
    until(lambda: len(client.get("/v1/videos").json()["data"]) == 1)
    assert client.get("/v1/videos").json()["data"][0]["id"] == new


# ---- backup, check ----

def words(server, *args):
    return subprocess.run([server_program(), *args, "--data", server.folder / "data"], capture_output=True, text=True,
                          timeout=DEADLINE * 2)


def test_a_backup_made_under_load_is_whole_and_can_be_gone_on_with(start, tmp_path):
    server = start()
    ids = completed(server, 3)
    stop = threading.Event()

    def load():
        client = server.client()
        while not stop.is_set():
            client.create()
    thread = threading.Thread(target=load)
    thread.start()
    done = words(server, "backup", tmp_path / "copy.db")
    stop.set()
    thread.join()
    assert done.returncode == 0 and "bytes" in done.stdout, done.stderr
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    server.stop()
    (server.folder / "data" / "farm.db").unlink()
    (tmp_path / "copy.db").rename(server.folder / "data" / "farm.db")
    server.start()
    assert all(server.client().get("/v1/videos/%s/content" % id).status == 200 for id in ids)


def test_check_finds_what_is_missing_or_changed(start):
    server = start()
    ids = completed(server, 3)
    assert words(server, "check", "--sha256").stdout.startswith("ok: the database and 9 files")
    paths = [next((server.folder / "data" / "files" / id).glob("*-video.mp4")) for id in ids]
    paths[0].unlink()
    changed = bytearray(paths[1].read_bytes())
    changed[5] ^= 1
    paths[1].write_bytes(changed)
    done = words(server, "check")
    assert done.returncode == 1 and ids[0] in done.stdout and ids[1] not in done.stdout
    done = words(server, "check", "--sha256")
    assert done.returncode == 1 and ids[1] in done.stdout and "2 of 9 files" in done.stderr


def test_a_damaged_database_is_told_at_start_not_at_3_am(start):
    server = start()
    completed(server, 3)
    server.stop()
    path = server.folder / "data" / "farm.db"
    with open(path, "r+b") as file:
        for page in range(2, os.path.getsize(path) // 4096, 3):
            file.seek(page * 4096)
            file.write(b"\xff" * 200)
    done = subprocess.run([server_program(), "--data", server.folder / "data", "--listen", "127.0.0.1:0", "--workers", "0"],
                          capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1 and ("damaged" in done.stderr or "malformed" in done.stderr)


# ---- the write-ahead log ----

MIB = 1 << 20
LOG_LIMIT = 64 * MIB             # WAL_FORCED_PAGES of server/store_db.c; a commit may go past it, and each long reader a step
STEP = 8 * MIB                   # WAL_WANTED_PAGES
LOG_AS_A_RULE = 40 * MIB         # WAL_KEPT_BYTES there
# Some 4 MiB of log, less than a step; few jobs with much in them, for each sets 2 MiB of the disk aside.
BATCH = (b'{"prompt":"%s","num_frames":5}\n' % (b"x" * 20000)) * 200


def test_the_log_stays_small_under_constant_readers_and_writers(start):
    """Readers overlap all the time; the write-ahead log must not grow with what is written."""
    server = start()
    stop, sizes = threading.Event(), []
    wal = server.folder / "data" / "farm.db-wal"

    def read():
        client = server.client()
        while not stop.is_set():
            assert client.get("/v1/videos", limit=2).status == 200
    readers = [threading.Thread(target=read) for _ in range(4)]
    for thread in readers:
        thread.start()
    client = server.client()
    for _ in range(30):
        assert client.ask("POST", "/v1/videos/batch", BATCH).status == 200
        sizes.append(wal.stat().st_size)
    stop.set()
    for thread in readers:
        thread.join()
    written = (server.folder / "data" / "farm.db").stat().st_size
    print("write-ahead log at most %.1f MiB while %.1f MiB were written" % (max(sizes) / MIB, written / MIB))
    assert max(sizes) <= LOG_LIMIT + STEP < written


def test_a_long_reader_lets_the_log_grow_only_until_its_end(start):
    """A backup or a person with a shell: nobody is refused meanwhile, and soon after it the log is small again."""
    server = start()
    client, wal = server.client(), server.folder / "data" / "farm.db-wal"

    def write():
        assert client.ask("POST", "/v1/videos/batch", BATCH).status == 200
        return wal.stat().st_size
    write()
    with contextlib.closing(sqlite3.connect(server.folder / "data" / "farm.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM jobs").fetchone()[0] == 200
        while write() <= LOG_LIMIT + STEP:
            pass
        assert reader.execute("SELECT count(*) FROM jobs").fetchone()[0] == 200
    after = [write() for _ in range(3)]          # a step, and one for what is left of the last
    print("write-ahead log, after its reader: %s MiB" % [size // MIB for size in after])
    assert min(after) <= LOG_AS_A_RULE
