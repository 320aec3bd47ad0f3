"""What an outsider may hold the farm to: every answer is written down, and what contradicts a promise is a violation.

An answer that never came proves nothing either way: the oracle only counts what was said. Rules compare what was known
*before a request was sent* with its answer, so that they hold whatever the threads do in between.
SPDX-License-Identifier: Apache-2.0
"""
import collections
import random
import threading
import time

DONE, FAILED, EXPIRED, RELEASED, CANCELLED = range(5)      # enum rf_outcome, as the attempts table keeps it


class Job:
    def __init__(self, id, marker):
        self.id, self.marker = id, marker
        self.retries = 0          # sent, whatever came of them: from the first on, an end need not be the end
        self.cancelled = False    # a 200 was seen
        self.deleted = None       # None, "maybe" or "yes"
        self.final = None         # (state, sha256) as first seen
        self.newest = {}          # task -> its highest lease that anybody was told
        self.done = {}            # task -> lease whose completion was accepted


class Oracle:
    def __init__(self, seed):
        self.seed = seed
        self.files_may_go = False # retention is on: a completed job's content may be 410
        self.lock = threading.RLock()
        self.log = collections.deque(maxlen=6000)
        self.violations = []
        self.jobs = {}            # id -> Job, accepted ones only
        self.markers = {}         # marker -> "accepted", "unknown" or "never"
        self.ids = {}             # marker -> id of its job
        self.atomic = []          # lists of markers: all of them or none
        self.max_lease = 0
        self.reports = set()      # (task, lease, kind) ever sent
        self.counts = collections.Counter()
        self.start = time.monotonic()
        self.n_markers = 0

    def say(self, *words):
        with self.lock:
            self.log.append("%8.3f %-10s %s" % (time.monotonic() - self.start, threading.current_thread().name,
                                                " ".join(map(str, words))))

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def violation(self, *words):
        with self.lock:
            text = " ".join(map(str, words))
            self.say("VIOLATION", text)
            self.violations.append(text)

    def report(self):
        lines = ["seed %d; repeat with FRAMEFARM_FAULT_SEED=%d" % (self.seed, self.seed), "violations:"]
        return "\n".join(lines + self.violations[:20] + ["operation log, newest last:"] + list(self.log)[-400:])

    # ---- submits ----

    def marker(self):
        with self.lock:
            self.n_markers += 1
            name = "a red circle, number %d of seed %d" % (self.n_markers, self.seed)
            self.markers[name] = "unknown"
            return name

    def accepted(self, marker, id):
        with self.lock:
            known = self.ids.setdefault(marker, id)
            if known != id and self.jobs[known].deleted is None:
                self.violation("one key, two jobs:", marker, known, id)
            self.markers[marker] = "accepted"
            if id not in self.jobs:
                self.jobs[id] = Job(id, marker)
                self.counts["jobs accepted"] += 1

    def refused(self, marker):
        with self.lock:
            if self.markers[marker] == "unknown":
                self.markers[marker] = "never"

    def any_job(self, rng):
        with self.lock:
            return rng.choice(list(self.jobs.values())) if self.jobs else None

    # ---- leases ----

    def before_lease(self):
        """What must be true of a lease that is asked for now: (a number larger than this, for none of these jobs)."""
        with self.lock:
            over = {j.id for j in self.jobs.values()
                    if j.deleted == "yes" or (j.retries == 0 and (j.cancelled or j.final is not None))}
            return self.max_lease, over

    def leased(self, before, task):
        number, over = before
        lease, id, name = task["lease"], task["job_id"], task["task_id"]
        with self.lock:
            self.counts["leases"] += 1
            self.say("leased", name, lease, "attempt", task["attempt"])
            if lease <= number:
                self.violation("lease", lease, "came after", number)
            self.max_lease = max(self.max_lease, lease)
            if id in over and (self.jobs[id].retries == 0 or self.jobs[id].deleted == "yes"):
                self.violation("a lease for a job that had ended:", name, lease)
            job = self.jobs.get(id)
            if job is None:       # accepted, but its submitter does not know yet, or never will
                marker = task["request"]["prompt"]
                if self.markers.get(marker) in (None, "never"):
                    self.violation("a lease for a job that was never accepted:", id, marker)
                self.accepted(marker, id)
                job = self.jobs[id]
            if lease <= job.newest.get(name, 0):
                self.violation("lease", lease, "of", name, "is not newer than", job.newest[name])
            if name in job.done and job.retries == 0:
                self.violation(name, "was done under", job.done[name], "and given out again under", lease)
            job.newest[name] = max(lease, job.newest.get(name, 0))

    def before_call(self, task, kind):
        """Whether the lease is known to be old, and whether this very report has been sent before."""
        with self.lock:
            job = self.jobs.get(task["job_id"])
            stale = job is not None and job.newest.get(task["task_id"], 0) > task["lease"]
            key = (task["task_id"], task["lease"], kind)
            again = key in self.reports
            self.reports.add(key)
            return stale, again

    def after_call(self, before, task, kind, answer):
        stale, again = before
        name, lease = task["task_id"], task["lease"]
        status = answer.status if answer is not None else None
        self.say(kind, name, lease, "->", status, "(stale)" if stale else "")
        if answer is None:
            return
        accepted = status == 200 and not (kind == "heartbeat" and answer.json()["cancel"])
        # A repeated report is answered the same; a lease may have been released by leaving, or by a line that broke.
        harmless = kind == "release" or (again and kind in ("complete", "fail"))
        if stale and accepted and not harmless:
            newest = self.jobs[task["job_id"]].newest[name]
            self.violation("a fenced", kind, "was accepted:", name, lease, "newest", newest)
        if stale and not accepted:
            self.count("fenced calls refused")
        if kind == "complete" and status == 200 and not stale:
            with self.lock:
                job = self.jobs[task["job_id"]]
                if job.done.setdefault(name, lease) != lease and job.retries == 0:
                    self.violation(name, "completed twice:", job.done[name], lease)
                job.done[name] = lease
        if status >= 500 and status not in (503, 507):
            self.count("answers %d" % status)

    # ---- what the user side shows ----

    def seen(self, video, retries_before):
        """An answer of GET; retries_before: as counted before it was asked for."""
        state, id = video["state"], video["id"]
        with self.lock:
            job = self.jobs.get(id)
            if job is None or state not in ("completed", "failed", "cancelled") or job.retries or retries_before:
                return
            if job.final is None:
                job.final = (state, video["sha256"])
                self.say("saw", id, state)
            elif self.files_may_go and video["sha256"] is None and job.final[0] == state:
                pass              # its files went; the record stays
            elif job.final != (state, video["sha256"]):
                self.violation(id, "ended twice:", job.final, (state, video["sha256"]))
            if job.cancelled and state != "cancelled":
                self.violation(id, "was cancelled and is", state)


def rng_of(seed, name):
    return random.Random("%d %s" % (seed, name))
