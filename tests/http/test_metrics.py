"""/metrics as a scraper reads it: the text format's rules, and counters that only grow.

SPDX-License-Identifier: Apache-2.0
"""
import math
import re
import time

import pytest

from conftest import Worker

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
SAMPLE = re.compile(r"([^\s{]+)(?:\{(.*)\})? (\S+)")
SUFFIXES = {"counter": ("",), "gauge": ("",), "summary": ("", "_sum", "_count"),
            "histogram": ("_bucket", "_sum", "_count")}


def read_labels(text):
    labels, at = {}, 0
    while at < len(text or ""):
        found = LABEL.match(text, at)
        assert found, "labels {%s} break at %d" % (text, at)
        assert found[1] not in labels, text
        labels[found[1]] = found[2]
        at = found.end()
    return labels


def read(text):
    """{family: (type, {(sample name, labels): value})}; fails at what a scraper or a linter would refuse."""
    assert text.endswith("\n") and "\n\n" not in text
    families, family, samples = {}, None, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family, words = line[7:].split(" ", 1)
            assert NAME.fullmatch(family) and family not in families and words.strip(), line
            families[family] = (None, samples := {})
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == family and kind in SUFFIXES and not samples and families[family][0] is None, line
            assert name.endswith("_total") == (kind == "counter"), line
            families[family] = (kind, samples)
        else:
            found = SAMPLE.fullmatch(line)
            assert found and family and families[family][0], line
            assert found[1] in {family + suffix for suffix in SUFFIXES[families[family][0]]}, line
            key = (found[1], tuple(sorted(read_labels(found[2]).items())))
            assert key not in samples, "twice: " + line
            samples[key] = float(found[3])
    for family, (kind, samples) in families.items():
        assert samples, family
        if kind in ("counter", "summary", "histogram"):
            assert all(value >= 0 for value in samples.values()), family
        if kind == "histogram":
            check_histogram(family, samples)
    return families


def check_histogram(family, samples):
    rows = {}
    for (name, labels), value in samples.items():
        if name == family + "_bucket":
            limit = float(dict(labels)["le"].replace("Inf", "inf"))
            rows.setdefault(tuple(label for label in labels if label[0] != "le"), []).append((limit, value))
    for labels, buckets in rows.items():
        limits, counts = zip(*buckets)
        assert list(limits) == sorted(set(limits)) and math.isinf(limits[-1]), family
        assert list(counts) == sorted(counts), "%s%s is not cumulative: %s" % (family, labels, counts)
        assert counts[-1] == samples[(family + "_count", labels)], family
        assert (family + "_sum", labels) in samples, family


def scrape(client):
    answer = client.get("/metrics")
    assert answer.status == 200 and answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read(answer.body.decode())


def counters(families):
    return {key: value for kind, samples in families.values() if kind == "counter" for key, value in samples.items()}


@pytest.mark.parametrize("text, wrong", [
    ("# HELP a_total x\n# TYPE a_total counter\na_total 1\na_total 1\n", "twice"),
    ("# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\"d\"} 1\n", "break"),
    ("# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\\d\"} 1\n", "break"),
    ("# HELP a x\n# TYPE a counter\na 1\n", "TYPE"), ("a 1\n", "a 1"), ("# HELP a x\n# TYPE a gauge\nb 1\n", "b 1"),
    ("# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n", "cumulative")])
def test_the_reader_of_this_test_refuses_what_a_scraper_would(text, wrong):
    with pytest.raises(AssertionError, match=wrong):
        read(text)


def test_metrics_are_well_formed_from_the_first_moment_to_a_busy_one(client, worker):
    first = scrape(client)
    client.create(user='an "odd\\ user')
    client.post("/v1/videos", {"promt": "x"})
    client.ask("PATCH", "/v1/videos")
    task = worker.take()
    worker.beat(task)
    scrape(client)
    worker.work(task)
    worker.work_all()
    last = scrape(client)
    assert set(first) <= set(last) and all(first[name][0] == last[name][0] for name in first)
    assert len(last) > 10


def test_counters_only_grow_and_count_what_happened(client, worker):
    before = counters(scrape(client))
    for _ in range(5):
        client.get("/v1/queue")
        client.get("/nothing")
    client.post("/v1/videos", {"prompt": "x" * 1000})
    after = counters(scrape(client))
    for key, value in before.items():
        assert after[key] >= value, key

    def grown(name, **labels):
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0) - before.get(key, 0)
    assert grown("framefarm_http_requests_total", method="GET", status="4xx") == 5
    assert grown("framefarm_http_requests_total", method="GET", status="2xx") == 6  # the scrape before too
    assert grown("framefarm_http_requests_total", method="POST", status="2xx") == 1
    assert 1000 < grown("framefarm_http_received_bytes_total") < 1100


def test_histograms_count_calls_by_kind_and_stages_of_tasks(client):
    worker = Worker(client)     # on one connection a call is counted, with its last byte, before the next is read
    def count(families, name, **labels):
        return families["framefarm_" + name][1][("framefarm_" + name + "_count", tuple(sorted(labels.items())))]
    before = scrape(client)
    client.create()
    client.create()
    client.get("/v1/queue")
    client.get("/nothing")
    task = worker.take()
    worker.beat(task)
    worker.work(task)
    after = scrape(client)

    def grown(name, **labels):
        return count(after, name, **labels) - count(before, name, **labels)
    assert {call: grown("http_request_duration_seconds", call=call) for call in
            ("submit", "read", "lease", "heartbeat", "report", "page")} == {
        "submit": 2, "read": 1, "lease": 1, "heartbeat": 1, "report": 1, "page": 2}
    assert grown("http_request_duration_seconds", call="transfer") >= 1
    assert grown("stage_seconds", stage="decode") >= 1
    name = "framefarm_http_request_duration_seconds"
    buckets = {float(dict(labels)["le"].replace("Inf", "inf")): value for (sample, labels), value in after[name][1].items()
               if sample == name + "_bucket" and ("call", "lease") in labels}
    assert len(buckets) == 15 and buckets[30] == count(after, "http_request_duration_seconds", call="lease")


def test_gauges_follow_jobs_workers_and_the_pause(client, worker):
    def gauge(name, **labels):
        return scrape(client)["framefarm_" + name][1][("framefarm_" + name, tuple(sorted(labels.items())))]
    client.create()
    client.create()
    assert gauge("jobs", state="queued") == 2 and gauge("queue_paused") == 0
    task = worker.take()
    assert gauge("jobs", state="in_progress") == 1 and gauge("tasks_leased") == 1 and gauge("workers", state="busy") == 1
    worker.work(task)
    worker.work_all()
    client.post("/v1/queue/pause")
    assert gauge("jobs", state="completed") == 2 and gauge("tasks_leased") == 0 and gauge("queue_paused") == 1


TOLD = {"memory_used_bytes": 12 << 30, "utilization": 0.97, "temperature_c": 61, "power_w": 412.5}


def shown(client):
    return client.get("/v1/workers").json()["data"][0]["device"]


def test_a_device_at_work_shows_its_gauges_whatever_its_worker_is_called(server, client):
    worker = Worker(client, name='a "gpu"\\ 1')
    client.create()
    task = worker.take()
    assert "temperature_c" not in shown(client) and "told_at" not in shown(client)
    assert worker.about(task, "heartbeat", stage="low_noise", step=1, steps=2, fraction=0.5, device=TOLD).status == 200
    assert TOLD.items() <= shown(client).items()
    labels = (("id", worker.id), ("worker", r'a \"gpu\"\\ 1'))
    kind, samples = scrape(client)["framefarm_device_temperature_celsius"]
    assert kind == "gauge" and samples == {("framefarm_device_temperature_celsius", labels): 61}
    part = {"power_w": 90}
    assert worker.about(task, "heartbeat", stage="low_noise", step=2, steps=2, fraction=0.6, device=part).status == 200
    assert shown(client)["power_w"] == 90 and "temperature_c" not in shown(client)
    refused = worker.about(task, "heartbeat", stage="low_noise", step=2, steps=2, fraction=0.6, device={"utilization": 97})
    assert refused.status == 400 and "utilization" in refused.error["message"]


def test_an_idle_device_shows_what_it_told_as_its_worker_asked_for_work(server, client):
    device = {"kind": "cuda", "name": 'a "big"\\ card', "memory_bytes": 140 << 30, "precision": "bf16"}
    worker = Worker(client, name="gpu-1", device=device)
    assert "told_at" not in shown(client)
    before = int(time.time())
    assert worker.lease(device=TOLD).status == 204
    assert TOLD.items() <= shown(client).items() and before <= shown(client)["told_at"] <= time.time()
    labels = (("id", worker.id), ("worker", "gpu-1"))

    def gauge(name):
        return scrape(client)["framefarm_device_" + name][1][("framefarm_device_" + name, labels)]
    assert {name: gauge(name) for name in ("memory_bytes", "memory_used_bytes", "utilization", "temperature_celsius",
                                           "power_watts")} == \
        {"memory_bytes": 140 << 30, "memory_used_bytes": 12 << 30, "utilization": 0.97, "temperature_celsius": 61,
         "power_watts": 412.5}
    assert before <= gauge("told_timestamp_seconds") <= time.time()
    (_, of_info), = scrape(client)["framefarm_device_info"][1]
    assert dict(of_info) == {**dict(labels), "kind": "cuda", "device": r'a \"big\"\\ card', "precision": "bf16"}
    refused = worker.lease(device={"utilization": 97})
    assert refused.status == 400 and "utilization" in refused.error["message"]


def test_gauges_stay_between_tasks_and_go_with_the_worker(server, client, worker):
    client.create()
    task = worker.take()
    assert worker.about(task, "heartbeat", stage="load", step=0, steps=0, fraction=0, device=TOLD).status == 200
    worker.work(task)
    assert shown(client)["power_w"] == 412.5
    worker.lease(device={"power_w": 70})
    assert shown(client)["power_w"] == 70
    assert client.post("/farm/v1/leave", {"worker_id": worker.id}).status == 200
    assert "power_w" not in shown(client) and "framefarm_device_info" not in scrape(client)
