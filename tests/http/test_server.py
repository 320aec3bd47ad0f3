"""The program itself: flags, lock, signals, being killed, and the workers it keeps.

SPDX-License-Identifier: Apache-2.0
"""
import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess

from conftest import DEADLINE, Server, Worker, server_program, until


def run(*args, env=None):
    return subprocess.run([server_program(), *args], capture_output=True, text=True, timeout=DEADLINE,
                          env={**os.environ, **(env or {})})


def test_help_and_version():
    assert "--listen HOST:PORT" in run("--help").stdout
    assert run("--version").stdout.startswith("framefarm-server 0.")


def test_bad_flags_are_named_and_the_status_is_2(tmp_path):
    for args, named in ((["--nonsense"], "--nonsense"), (["--listen", "x"], "--listen"), (["--workers", "-1"], "--workers"),
                        (["--insecure-no-auth", "--require-tokens"], "--require-tokens")):
        done = run(*args)
        assert done.returncode == 2 and named in done.stderr and "Traceback" not in done.stderr


def test_flags_may_come_from_the_environment(tmp_path):
    done = run(env={"FRAMEFARM_LISTEN": "nowhere"})
    assert done.returncode == 2 and "FRAMEFARM_LISTEN" in done.stderr


def test_the_log_tells_the_address(server):
    until(lambda: "level=info" in server.log_text() and "listening=http://127.0.0.1:%d" % server.port in server.log_text())


def test_a_second_server_on_the_same_folder_is_refused(server):
    done = run("--data", str(server.folder / "data"), "--listen", "127.0.0.1:0", "--workers", "0")
    assert done.returncode == 1 and "in use by another server (process %d)" % server.process.pid in done.stderr


def test_a_taken_port_is_named(server, tmp_path):
    done = run("--data", str(tmp_path / "other"), "--listen", "127.0.0.1:%d" % server.port, "--workers", "0")
    assert done.returncode == 1 and "Address already in use" in done.stderr


def test_a_stopping_server_answers_those_who_wait(server, client, worker):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(worker.lease, 30000)
        until(lambda: b"framefarm_http_waiting 1" in client.get("/metrics").body)
        assert server.stop() == 0
        assert waiting.result(5).status == 204


def test_an_accepted_job_survives_kill_9(server, client):
    ids = [client.create(prompt="clip %d" % i)["id"] for i in range(20)]
    server.kill()
    server.start()
    client = server.client()
    assert [v["id"] for v in client.get("/v1/videos", order="asc").json()["data"]] == ids


def test_a_worker_goes_on_through_a_killed_server(server, client, worker):
    id = client.create()["id"]
    task = worker.take()
    server.kill()
    server.start()
    worker.client = server.client()
    assert worker.put(task, "segment-0.mp4", b"x").status == 200
    assert worker.complete(task).status == 200
    assert server.client().video(id)["segments"][0]["state"] == "done"


# ---- the supervisor, with a worker that is a shell script ----

SCRIPT = """#!/bin/sh
echo "$$ $*" >> "%s"
trap 'exit 0' TERM
[ -e "%s" ] && exit 3
while :; do sleep 0.05; done
"""


def supervised(tmp_path):
    """A server with a pretended framefarm-worker beside it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy(server_program(), programs / "framefarm-server")
    script = programs / "framefarm-worker"
    script.write_text(SCRIPT % (tmp_path / "starts", tmp_path / "sick"))
    script.chmod(0o755)
    return Server(tmp_path, programs / "framefarm-server")


def starts(server):
    path = server.folder / "starts"
    return path.read_text().splitlines() if path.exists() else []


def alive(pid):
    try:
        return "Z" not in pathlib.Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1][:3]
    except FileNotFoundError:
        return False


def test_workers_are_started_as_asked_and_end_with_the_server(tmp_path):
    server = supervised(tmp_path).start("--models", "/somewhere", workers="2")
    lines = until(lambda: len(starts(server)) == 2 and starts(server))
    assert "--server http://127.0.0.1:%d --device cpu --name local-cpu0 --models /somewhere" % server.port in "\n".join(lines)
    assert server.stop() == 0
    assert not any(alive(int(line.split()[0])) for line in lines)


def test_auto_starts_at_least_one_worker(tmp_path):
    server = supervised(tmp_path).start(workers="auto")
    until(lambda: starts(server))
    server.finish()


def test_a_dead_worker_is_started_again(tmp_path):
    server = supervised(tmp_path).start(workers="1")
    pid = int(until(lambda: starts(server))[0].split()[0])
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(starts(server)) == 2)
    assert "doing=restart" in server.log_text()
    server.finish()


def test_a_worker_that_dies_at_once_is_started_ever_more_slowly(tmp_path):
    (tmp_path / "sick").touch()
    server = supervised(tmp_path).start(workers="1")
    until(lambda: "in_ms=4000" in server.log_text())
    assert len(starts(server)) == 3
    server.finish()


def test_a_killed_servers_workers_live_on_and_are_adopted_not_doubled(tmp_path):
    server = supervised(tmp_path).start(workers="1")
    pid, port = int(until(lambda: starts(server))[0].split()[0]), server.port
    server.kill()
    assert alive(pid)
    server.start(workers="1", listen="127.0.0.1:%d" % port)
    until(lambda: "doing=adopt pid=%d" % pid in server.log_text())
    until(lambda: server.client().get("/healthz").status == 200)
    assert alive(pid) and len(starts(server)) == 1
    assert server.stop() == 0 and not alive(pid)


def test_an_adopted_worker_that_knows_another_address_is_replaced(tmp_path):
    server = supervised(tmp_path).start(workers="1")
    pid = int(until(lambda: starts(server))[0].split()[0])
    server.kill()
    server.start(workers="1")
    until(lambda: len(starts(server)) == 2 and not alive(pid))
    server.finish()


def test_without_a_worker_program_it_says_so(tmp_path):
    shutil.copy(server_program(), tmp_path / "framefarm-server")
    done = subprocess.run([tmp_path / "framefarm-server", "--data", tmp_path / "data", "--listen", "127.0.0.1:0"],
                          capture_output=True, text=True, timeout=DEADLINE, env={"PATH": "/nowhere"})
    assert done.returncode == 1 and "--workers 0 runs without" in done.stderr


def test_a_prompt_waits_until_the_first_local_worker_has_said_what_it_can_render(tmp_path):
    server = supervised(tmp_path).start(workers="1")
    client = server.client()
    refusal = client.post("/v1/videos", {"prompt": "too early for a default size"})
    assert refusal.status == 503 and "starting" in refusal.json()["error"]["message"]
    assert refusal.headers.get("retry-after")
    assert client.get("/readyz").status == 503
    Worker(client)
    assert client.get("/readyz").status == 200
    assert client.create()["status"] == "queued"
    server.finish()
