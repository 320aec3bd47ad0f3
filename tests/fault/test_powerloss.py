"""The power goes, again and again, while people submit and workers deliver. What was acknowledged is there, and whole.

FRAMEFARM_FAULT_SECONDS (15) and FRAMEFARM_FAULT_SEED as in test_promises.py. The last tests run the same on a disk that
lies about its syncs: there the loss must be seen, else the others prove nothing.
SPDX-License-Identifier: Apache-2.0
"""
import os
import pathlib
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from farm import BurningServer, all_videos, count_down, count_up, drain, shim  # noqa: E402
from oracle import Oracle, rng_of  # noqa: E402
from players import Line, Steerer, Submitter, Watcher, Worker, check_content, wait_until  # noqa: E402
from powerloss import Disk  # noqa: E402

SECONDS = float(os.environ.get("FRAMEFARM_FAULT_SECONDS", "15"))
SEED = int(os.environ.get("FRAMEFARM_FAULT_SEED", str(int(time.time()))))


class Unplugged(BurningServer):
    def __init__(self, folder, disk):
        super().__init__(folder, disk.env)
        self.disk = disk

    def up(self):
        return self.start("--log-level", "warn", "--data", str(self.disk.root / "data"),
                          listen="127.0.0.1:%d" % self.port, env=self.env)

    def cut(self, rng, mixed):
        self.kill()
        self.disk.cut(rng, mixed)
        self.up()


def still_there(line, oracle):
    """Right after the power is back: every job whose 2xx was heard, and the files of the completed ones."""
    with oracle.lock:  # first what was heard, then what is there: others submit in between
        jobs = list(oracle.jobs.values())
        done = {job.id: set(job.done) for job in jobs}
    there = {v["id"]: v for v in all_videos(line)}
    for job in jobs:
        if job.id not in there:
            if job.deleted is None:
                oracle.violation("an acknowledged job was lost:", job.id, job.marker)
            continue
        video = there[job.id]
        if job.retries == 0 and not job.deleted:
            for task in done[job.id]:
                index = int(task.rsplit(".")[-1])
                if index < len(video["segments"]) and video["segments"][index]["state"] != "done":
                    oracle.violation("an acknowledged completion was lost:", task, video["segments"][index])
        if video["state"] == "completed" and check_content(line, oracle, job, video):
            oracle.count("files whole after a cut")


def play(tmp_path, seed, seconds, lie=None):
    oracle = Oracle(seed)
    disk = Disk(tmp_path, shim("powerloss"), lie)
    server = Unplugged(tmp_path, disk)
    server.up()
    try:
        return storm(server, oracle, seconds, patient=lie is None)
    finally:
        if not server.died():
            server.kill()


def storm(server, oracle, seconds, patient):
    workers = [Worker("worker-%d" % i, server, oracle) for i in range(4)]
    wait_until(workers[0].register, 20, "a first registration")
    for worker in workers:
        worker.honest.set()                            # the power is what goes wrong here
    people = [Submitter("submit", server, oracle, pause=0.1), Steerer("steer", server, oracle, pause=0.3),
              Watcher("watch", server, oracle, pause=0.02)]
    for player in workers + people:
        player.start()
    rng, over = rng_of(oracle.seed, "power"), time.monotonic() + seconds
    while time.monotonic() < over and not oracle.violations:
        time.sleep(rng.uniform(0.2, 1.5))
        oracle.say("the power goes")
        server.cut(rng, rng.random() < 0.5)
        line = Line(server)
        still_there(line, oracle)
        line.close()
    for player in people:
        player.ending.set()
    line = Line(server)
    if patient and not oracle.violations:
        drain(line, oracle, 240)
    for player in workers + people:
        player.ending.set()
        player.join(60)
    if patient and not oracle.violations:
        server.cut(rng, False)
        line.close()
        there = count_up(server, line, oracle)
        server.stop()
        count_down(server, oracle, there, server.disk.root / "data")
    print("seed %d: %d power cuts, %s" % (oracle.seed, server.disk.n_cuts, ", ".join(
        "%s %s" % (n, what) for what, n in sorted(oracle.counts.items()))))
    return oracle


def test_nothing_acknowledged_is_lost_when_the_power_goes(tmp_path):
    oracle = play(tmp_path, SEED, SECONDS)
    if oracle.violations:
        pytest.fail(oracle.report(), pytrace=False)
    assert oracle.counts["files whole after a cut"] > 0


@pytest.mark.parametrize("lie", ["files", "folders"])
def test_on_a_disk_that_lies_the_loss_is_seen(tmp_path, lie):
    try:
        oracle = play(tmp_path, SEED, 20, lie)
        assert oracle.violations, "a disk that syncs nothing lost nothing: the shim is not at work"
    except AssertionError as problem:                  # or the server says at its start that the database is damaged
        assert "the shim" not in str(problem), problem
