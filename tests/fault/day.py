"""A day of a busy farm against one server process: `day.py [--minutes N] [--seconds S] [--seed N] [--under "PROGRAM WORDS"]`.

The server's clock goes forward a simulated minute at a time (clock_and_disk.c), never before a few requests of that minute
were answered: 1440 minutes are a day, 0:00 to 24:00, quiet at night, busy at 11 and at 20 o'clock. Who uses the farm is in
players.py; here are those who only a whole day sees: who reads, moves, listens, keeps the farm. The oracle judges as ever.
scripts/valgrind-day runs it with the server under Valgrind. In every tenth minute the clock goes in steps shorter than a
clock jump, so that leases run out; otherwise a leap of a minute leaves them as they are.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import math
import pathlib
import shlex
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "http")]
from conftest import MODEL, server_program  # noqa: E402
from farm import BurningServer, Weather, count_down, count_up, drain  # noqa: E402
from oracle import Oracle  # noqa: E402
from players import BusySubmitter, Line, Player, Steerer, Watcher, Worker, wait_until  # noqa: E402
from test_webhooks import Receiver  # noqa: E402

DAY = 1440
FEW = 4                          # requests that each minute has at least
FOUND = 9                        # how Valgrind ends when it has something to say
STEP_SECONDS = 12                # a clock that is 15 s ahead has jumped (server/main.c), and leases stand still meanwhile


class Traffic:
    """Counts answers, and wakes whoever waits for more of them."""

    def __init__(self):
        self.changed, self.n, self.by_status = threading.Condition(), 0, {}

    def add(self, status):
        with self.changed:
            self.n += 1
            self.by_status[status] = self.by_status.get(status, 0) + 1
            self.changed.notify_all()

    def pass_until(self, n, end):
        """Returns when n answers have come since now and the moment is `end`."""
        with self.changed:
            wanted = self.n + n
            if not self.changed.wait_for(lambda: self.n >= wanted, 120):
                return False
            self.changed.wait_for(lambda: time.monotonic() >= end, max(0.0, end - time.monotonic()))
        return True


class CountedLine(Line):
    def __init__(self, server, traffic):
        super().__init__(server, timeout=60)
        self.traffic = traffic

    def ask(self, *args, **more):
        answer = super().ask(*args, **more)
        if answer is not None:
            self.traffic.add(answer.status)
        return answer


class Producer(BusySubmitter):
    hook = ""

    def request(self, marker):
        fields = super().request(marker)
        return {**fields, "webhook_url": self.hook} if self.rng.random() < 0.3 else fields


class Hand(Worker):
    """Starts anew now and then, as one that was drained does."""

    def turn(self):
        if self.id is not None and self.rng.random() < 0.03:
            self.leave(None)
        super().turn()


class Reader(Player):
    """Lists, files, tables, and what no sane client sends."""
    PATHS = ["/", "/healthz", "/readyz", "/metrics", "/openapi.yaml", "/v1/models", "/v1/workers", "/v1/queue", "/v1/timings",
             "/v1/timings?from=1", "/nothing/here", "/v1/videos/video_none", "/v1/videos?status=failed", "/app.js",
             "/v1/videos?order=queue&limit=20", "/v1/videos?user=ann&q=circle&limit=5", "/v1/videos?created_after=1"]
    BAD = [("GET", "/v1/videos?limit=-1", None, {}), ("GET", "/v1/videos?limit=5&limit=6", None, {}),
           ("GET", "/v1/videos?after=nobody", None, {}), ("GET", "/v1/videos/%ff%00", None, {}),
           ("POST", "/v1/videos", '{"prompt":"x","seconds":"1e999"}', {"Content-Type": "application/json"}),
           ("POST", "/v1/videos", '{"prompt":"x","input_reference":{"image_url":"data:image/png;base64,####"}}',
            {"Content-Type": "application/json"}),
           ("POST", "/v1/videos", "--b\r\nContent-Disposition: nonsense\r\n\r\nx",
            {"Content-Type": "multipart/form-data; boundary=b"}),
           ("POST", "/v1/videos", "x" * 5000, {"Content-Type": "text/plain"}),
           ("POST", "/v1/videos/batch", '{"prompt":"\\ud800"}\n[' * 9, {"Content-Type": "application/x-ndjson"}),
           ("POST", "/farm/v1/register", '{"protocol":99,"name":"x"}', {"Content-Type": "application/json"}),
           ("POST", "/farm/v1/lease", '{"worker_id":"worker_none","wait_ms":1}', {"Content-Type": "application/json"}),
           ("PUT", "/farm/v1/tasks/video_none.0/files/../../x?lease=1", "x", {"X-Content-SHA256": "0" * 64}),
           ("POST", "/farm/v1/tasks/video_none.0/complete", '{"lease":"one"}', {"Content-Type": "application/json"}),
           ("DELETE", "/v1/queue", None, {}), ("BREW", "/", None, {}),
           ("GET", "/v1/videos", None, {"Authorization": "Bearer ff_no", "Host": "x" * 300})]

    def turn(self):
        self.rng.choice([self.read, self.read, self.file, self.file, self.refused, self.raw])()

    def read(self):
        self.line.ask(self.rng.choice(["GET", "GET", "HEAD"]), self.rng.choice(self.PATHS))

    def file(self):
        job = self.oracle.any_job(self.rng)
        if job is None:
            return self.breathe()
        what = self.rng.choice(["content", "content?variant=thumbnail", "content?variant=preview", "content?variant=none",
                                "timings", "timings?format=csv"])
        headers = {"Range": self.rng.choice(["bytes=0-9", "bytes=-100", "bytes=5-", "bytes=9-5", "pages=1"])}
        self.line.ask(self.rng.choice(["GET", "HEAD"]), "/v1/videos/%s/%s" % (job.id, what),
                      headers=headers if self.rng.random() < 0.5 else None)

    def refused(self):
        method, path, body, headers = self.rng.choice(self.BAD)
        answer = self.line.ask(method, path, body, headers)
        if answer is not None and (answer.status < 400 or answer.status == 500) and path != "/v1/videos" \
                and not path.endswith("batch"):        # a batch says it line by line
            self.oracle.violation(method, path, body, "was answered", answer.status)

    def raw(self):
        """Half a request, or none, and a line that goes."""
        body = bytes(self.rng.randrange(256) for _ in range(300))
        self.line.cut(self.rng.choice(["GET", "POST", "\x01"]), self.rng.choice(["/v1/videos", "/?" + "a=1&" * 4000]), body,
                      {"Content-Type": "application/json", "X": "y" * self.rng.choice([1, 20000])}, self.rng.uniform(0, 1))
        self.oracle.count("lines cut")


class Mover(Player):
    """Puts waiting jobs before and after others, makes new ones of old ones, asks what would be."""

    def turn(self):
        one, two = self.oracle.any_job(self.rng), self.oracle.any_job(self.rng)
        if one is None:
            return self.breathe()
        what = self.rng.choice(["move"] * 6 + ["dry", "ticket", "remix", "bulk"])
        if what == "move":
            answer = self.line.ask("POST", "/v1/videos/%s/move" % one.id, {self.rng.choice(["before", "after"]): two.id})
            if answer is not None:
                self.oracle.count("moved" if answer.status == 200 else "moves refused")
                if answer.status not in (200, 400, 404, 409, 503, 507):
                    self.oracle.violation("a move was answered", answer.status, answer.body[:200])
        elif what == "dry":
            self.line.ask("POST", "/v1/videos?dry_run=1", {"prompt": "a red circle", "model": MODEL["name"]})
        elif what == "ticket":
            self.line.ask("POST", "/v1/tickets")
        elif what == "remix":
            old = self.line.ask("GET", "/v1/videos/" + one.id)
            if old is None or old.status != 200 or old.json()["has_input_reference"]:
                return                                 # it would inherit an image that says whose it was
            marker = self.oracle.marker()
            answer = self.line.ask("POST", "/v1/videos/%s/remix" % one.id, {"prompt": marker})
            if answer is not None and answer.status == 200:
                self.oracle.accepted(marker, answer.json()["id"])
        elif self.rng.random() < 0.1:                  # rarely: afterwards an end need not be the end
            with self.oracle.lock:
                for job in self.oracle.jobs.values():
                    job.retries += 1
            self.line.ask("POST", "/v1/videos/retry?status=failed")
            self.oracle.count("retried in bulk")


class Listener(Player):
    """The page left open: it listens for a while, goes, and comes back where it was."""
    last_id = None

    def turn(self):
        headers = {"Last-Event-ID": self.last_id} if self.last_id and self.rng.random() < 0.7 else {}
        line = Line(self.server, timeout=2)
        try:
            line.connection = None
            line.ask("GET", "/healthz")
            line.connection.request("GET", "/v1/events", headers=headers)
            response = line.connection.getresponse()
            self.line.traffic.add(response.status)
            for _ in range(self.rng.randint(1, 200)):
                text = response.readline().decode()
                if text.startswith("id: "):
                    self.last_id = text[4:].strip()
                    self.oracle.count("events heard")
                if self.ending.is_set():
                    break
        except (OSError, AttributeError, ValueError):
            pass
        line.close()
        self.oracle.count("event streams")


class Keeper:
    """The operator: the programs beside the server, in turn, themselves under what it runs under; and a drained worker."""

    def __init__(self, server, oracle, line, folder):
        self.server, self.oracle, self.line, self.folder, self.turn = server, oracle, line, folder, 0

    def come_by(self):
        words = [["backup", str(self.folder / ("backup-%d.db" % self.turn))], ["check", "--sha256"], ["token", "create", "--role",
                 "user", "--name", "n%d" % self.turn], ["token", "list"], ["webhook-secret"]][self.turn % 5]
        done = subprocess.run([self.server.program, *words, "--data", str(self.server.folder / "data")], capture_output=True,
                              text=True, timeout=300)
        self.turn += 1
        self.oracle.count("commands of the operator")
        if done.returncode != 0:
            self.oracle.violation(*words, "ended with", done.returncode, done.stdout[-300:], done.stderr[-2000:])
        workers = self.line.ask("GET", "/v1/workers")
        alive = [w for w in workers.json()["data"] if w["state"] != "lost"] if workers is not None else []
        if alive:
            self.line.ask("POST", "/v1/workers/%s/drain" % alive[-1]["id"])


def busy(minute):
    """How busy this minute of the day is, 0.1 to 1: two humps."""
    hour = minute % DAY / 60
    return max(0.1, math.exp(-((hour - 11) / 2.5) ** 2), 0.8 * math.exp(-((hour - 20) / 2) ** 2))


def memory_kib(pid):
    for line in open("/proc/%d/status" % pid):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def wrap(folder, under):
    """The server's program behind the words that run it; a script, because the test knows one path."""
    if not under:
        return server_program()
    program = folder / "framefarm-server"
    program.write_text("#!/bin/sh\nexec %s %s \"$@\"\n" % (under, shlex.quote(str(server_program()))))
    program.chmod(0o755)
    return program


def live(minutes, seconds, server, weather, oracle, players, keeper, traffic):
    """One minute after the other; each takes its share of the seconds by how busy it is."""
    every = DAY / minutes        # a shorter run takes its minutes from all over the day
    whole = sum(busy(i * every) for i in range(minutes))
    begin, spent = time.monotonic(), 0.0
    for i in range(minutes):
        minute = int(i * every)
        for player, pause in players:
            player.pause = pause / busy(minute)
        slow = i % 10 == 9
        for step in range(5 if slow else 1):
            spent += seconds * busy(minute) / whole / (5 if slow else 1)
            if not traffic.pass_until(FEW, begin + spent):
                oracle.violation("nobody was answered in minute", minute)
            weather.jump(STEP_SECONDS if slow else 60)
        weather.disk_full(2 if minute % 360 == 200 else 0)
        if i % max(1, minutes // 10) == 0:
            keeper.come_by()
        if i % max(1, minutes // 8) == 0:
            print("%02d:%02d  %d answers, %d jobs, %.0f MiB" % (minute // 60, minute % 60, traffic.n, len(oracle.jobs),
                                                              memory_kib(server.process.pid) / 1024), flush=True)
        if server.died():
            oracle.violation("the server ended by itself:", server.process.returncode, server.log_text()[-1500:])
        if oracle.violations:
            return
    weather.disk_full(0)


def people(server, oracle, traffic):
    """Everybody, with the pause each takes between two things at the busiest hour."""
    receiver = Receiver()
    receiver.statuses = [500, 503, 302, 404] * 20
    Producer.hook = receiver.url + "/ended"
    workers = [Hand("worker-%d" % i, server, oracle, pause=0.03) for i in range(4)]
    others = [(Producer("submit", server, oracle), 0.1), (Steerer("steer", server, oracle), 0.2),
              (Watcher("watch", server, oracle), 0.05), (Reader("read", server, oracle), 0.04),
              (Mover("move", server, oracle), 0.1), (Listener("listen", server, oracle), 0.1)]
    for player in workers + [p for p, _ in others]:
        player.line = CountedLine(server, traffic)
    return workers, others, receiver


def finish(players):
    for player in players:
        player.ending.set()
    for player in players:
        player.join(120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=int, default=DAY, help="simulated ones, spread over the day (1440)")
    parser.add_argument("--seconds", type=float, default=0, help="that they take; at least FEW requests each (0.6 a minute)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--under", default="", help="what runs the server, as words of a shell")
    words = parser.parse_args()
    oracle, traffic = Oracle(words.seed), Traffic()
    oracle.files_may_go = True
    with tempfile.TemporaryDirectory(prefix="framefarm-day-") as name:
        folder = pathlib.Path(name)
        weather = Weather(folder / "weather")
        server = BurningServer(folder, weather.env, wrap(folder, words.under), (
            "--log-level", "error", "--webhook-allow-private", "--webhook-retry-ms", "50", "--keep-bytes", "30M"))
        status = 0
        try:
            status = day(server.up(), words, weather, oracle, traffic, folder)
        finally:
            if not server.died():
                server.kill()
        if oracle.violations:
            print(oracle.report(), server.log_text()[-3000:], sep="\n")
    print("the server ended with %d" % status)
    sys.exit(1 if oracle.violations or status else 0)


def day(server, words, weather, oracle, traffic, folder):
    workers, others, receiver = people(server, oracle, traffic)
    line = CountedLine(server, traffic)
    wait_until(workers[0].register, 60, "a first registration")
    for player in workers + [p for p, _ in others]:
        player.start()
    live(words.minutes, words.seconds or 0.6 * words.minutes, server, weather, oracle, others,
         Keeper(server, oracle, line, folder), traffic)
    finish([p for p, _ in others])
    for worker in workers:
        worker.honest.set()
    if not oracle.violations:
        drain(line, oracle, 400)
    finish(workers)
    there = {} if oracle.violations else count_up(server, line, oracle)
    line.close()
    oracle.counts["webhooks heard"] = len(receiver.heard)
    receiver.server.shutdown()
    status = server.stop()
    if not oracle.violations:
        count_down(server, oracle, there)
    print("seed %d: %d minutes, %d requests answered (%s)" % (
        oracle.seed, words.minutes, traffic.n, ", ".join("%d x %d" % (n, s) for s, n in sorted(traffic.by_status.items()))))
    print(", ".join("%s %s" % (n, what) for what, n in sorted(oracle.counts.items())))
    if status not in (0, FOUND):
        oracle.violation("the last stop ended with", status)
    return status


if __name__ == "__main__":
    main()
