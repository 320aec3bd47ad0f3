"""Who gets in: tokens and their roles, tickets, wrong tokens, the program's `token` words, the local workers' own token.

SPDX-License-Identifier: Apache-2.0
"""
import os
import re
import sqlite3
import subprocess
import time

import pytest

from conftest import DEADLINE, Client, Server, Worker, server_program, until
from test_server import starts, supervised


class Farm:
    """A server that asks for tokens, and the words that make them."""

    def __init__(self, folder):
        self.server = Server(folder)

    def words(self, *words):
        return subprocess.run([server_program(), *words, "--data", self.server.folder / "data"], capture_output=True,
                              text=True, timeout=DEADLINE)

    def token(self, role, name=None):
        done = self.words("token", "create", "--role", role, *(["--name", name] if name else []))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self, *args, **more):
        self.server.start(*(args or ["--require-tokens"]), **more)
        return self

    def client(self, token=None):
        client = self.server.client()
        plain = client.ask

        def ask(method, path, body=None, headers=None, **query):
            shown = {"Authorization": "Bearer " + token} if token else {}
            return plain(method, path, body, {**shown, **(headers or {})}, **query)
        client.ask = ask
        return client

    def let_in(self, token, path="/v1/queue"):
        """A client of a token made while the server runs, once the server has heard of it."""
        client = self.client(token)
        until(lambda: client.get(path).status != 401)
        return client


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path)
    yield farm
    farm.server.finish()


def test_on_loopback_nobody_is_asked_and_a_strange_token_is_no_harm(client):
    assert client.get("/v1/queue").status == 200
    assert client.get("/v1/queue", headers={"Authorization": "Bearer unused"}).status == 200


def test_beyond_loopback_a_token_is_needed(farm):
    farm.start("--log-level", "info", listen="0.0.0.0:0")
    assert "there are no tokens yet" in farm.server.log_text()
    answer = farm.client().get("/v1/videos")
    assert answer.status == 401 and answer.error["type"] == "authentication_error"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="framefarm"'
    assert farm.client("ff_" + "0" * 64).get("/v1/videos").headers["WWW-Authenticate"].endswith('error="invalid_token"')
    for path in ("/healthz", "/readyz", "/", "/openapi.yaml", "/js/api.js"):
        assert farm.client().get(path).status == 200, path
    assert farm.client().get("/nonsense/x").status == 404
    for method, path in (("POST", "/v1/videos"), ("GET", "/v1/events"), ("GET", "/metrics"), ("POST", "/farm/v1/lease")):
        assert farm.client().ask(method, path).status == 401, path


def test_insecure_no_auth_stays_for_closed_networks(farm):
    farm.start("--insecure-no-auth", listen="0.0.0.0:0")
    assert farm.client().get("/v1/queue").status == 200


def test_each_role_may_do_its_own_and_no_more(farm):
    tokens = {role: farm.token(role, role + "-1") for role in ("user", "operator", "worker")}
    farm.start()
    calls = {"user": ("GET", "/v1/videos"), "operator": ("POST", "/v1/queue/pause"), "worker": ("POST", "/farm/v1/lease")}
    may = {"user": {"user"}, "operator": {"user", "operator"}, "worker": {"worker"}}
    for role, token in tokens.items():
        for wanted, (method, path) in calls.items():
            answer = farm.client(token).ask(method, path)
            assert (answer.status not in (401, 403)) == (wanted in may[role]), (role, path, answer.body)
            if wanted not in may[role]:
                assert answer.error["code"] == "wrong_role" and role + "-1" in answer.error["message"]
    for path in ("/metrics", "/v1/timings"):
        assert farm.client(tokens["user"]).get(path).status == 403
        assert farm.client(tokens["operator"]).get(path).status == 200


def test_a_worker_renders_with_its_token(farm):
    user, worker = farm.token("user", "ann"), farm.token("worker")
    farm.start()
    client = farm.client(user)
    id = client.create()["id"]
    Worker(farm.client(worker)).work_all()
    assert client.video(id)["status"] == "completed"
    assert client.get("/v1/videos/%s/content" % id).status == 200


def test_a_user_sees_and_steers_only_its_own_jobs(farm):
    tokens = [farm.token("user", "ann"), farm.token("user", "ben"), farm.token("operator", "boss")]
    farm.start()
    ann, ben, boss = (farm.client(token) for token in tokens)
    mine, his = ann.create(), ben.create()
    assert mine["user"] == "ann"
    assert [v["id"] for v in ann.get("/v1/videos").json()["data"]] == [mine["id"]]
    assert {v["id"] for v in boss.get("/v1/videos").json()["data"]} == {mine["id"], his["id"]}
    assert ann.get("/v1/videos", user="ben").status == 400
    for method, call in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("GET", "/timings"), ("POST", "/cancel"),
                         ("POST", "/retry")):
        answer = ann.ask(method, "/v1/videos/" + his["id"] + call)
        assert answer.status == 404 and answer.error["code"] == "not_found", (call, answer.body)
    assert ann.post("/v1/videos/%s/remix" % his["id"], {"prompt": "x"}).status == 404
    assert ann.post("/v1/videos/%s/priority" % his["id"], {"priority": -1}).status == 404
    assert ann.post("/v1/videos/%s/move" % his["id"], {"before": mine["id"]}).status == 404
    assert ann.post("/v1/videos/%s/move" % mine["id"], {"before": his["id"]}).status == 404
    assert boss.post("/v1/videos/%s/cancel" % his["id"]).status == 200
    assert ann.post("/v1/videos/%s/cancel" % mine["id"]).status == 200


def test_a_user_cannot_take_anothers_name_nor_push_ahead(farm):
    token, boss = farm.token("user", "ann"), farm.token("operator")
    farm.start()
    ann = farm.client(token)
    answer = ann.post("/v1/videos", {"prompt": "x", "user": "ben"})
    assert answer.status == 403 and answer.error["param"] == "user"
    answer = ann.post("/v1/videos", {"prompt": "x", "priority": 1})
    assert answer.status == 403 and answer.error["param"] == "priority"
    lines = ann.ask("POST", "/v1/videos/batch", b'{"prompt":"a","user":"ben"}\n{"prompt":"b"}\n').body.splitlines()
    assert b"submits as 'ann'" in lines[0] and b'"id"' in lines[1]
    id = ann.create(priority=-5)["id"]
    assert ann.post("/v1/videos/%s/priority" % id, {"priority": 1}).status == 403
    assert ann.post("/v1/videos/%s/priority" % id, {"priority": 0}).status == 200
    assert farm.client(boss).post("/v1/videos/%s/priority" % id, {"priority": 9}).status == 200
    other = ann.create()["id"]
    assert ann.post("/v1/videos/%s/move" % other, {"before": id}).status == 403
    assert ann.post("/v1/videos/%s/move" % id, {"after": other}).json()["priority"] == 0
    assert farm.client(boss).create(user="zoe")["user"] == "zoe"


def test_idempotency_keys_of_two_users_do_not_meet(farm):
    tokens = [farm.token("user", "ann"), farm.token("user", "ben")]
    farm.start()
    ids = [farm.client(t).post("/v1/videos", {"prompt": "x"}, headers={"Idempotency-Key": "k"}).json()["id"] for t in tokens]
    assert ids[0] != ids[1]
    again = farm.client(tokens[0]).post("/v1/videos", {"prompt": "x"}, headers={"Idempotency-Key": "k"})
    assert again.json()["id"] == ids[0] and again.headers["Idempotent-Replayed"] == "true"


def read_event(client, path, headers=None):
    client.connection.request("GET", path, headers=headers or {})
    response = client.connection.getresponse()
    assert response.status == 200
    return response


def next_data(stream):
    while True:
        line = stream.readline()
        if line.startswith(b"data:"):
            return line


def test_a_user_hears_of_its_own_jobs_alone(farm):
    ann, ben = farm.token("user", "ann"), farm.token("user", "ben")
    farm.start()
    stream = read_event(farm.client(), "/v1/events", {"Authorization": "Bearer " + ann})
    farm.client(ben).create(prompt="a secret of ben's")
    farm.client(ann).create(prompt="ann's own")
    data = next_data(stream)
    assert b"ann's own" in data and b"ben" not in data


def test_tokens_are_made_and_revoked_while_the_server_runs(farm):
    farm.start()
    token = farm.token("user", "ann")
    client = farm.let_in(token)
    listed = farm.words("token", "list").stdout
    assert re.search(r"tok_\w+ +user +ann +made", listed) and token not in listed
    assert farm.words("token", "revoke", "ann").stdout == "1 revoked\n"
    until(lambda: client.get("/v1/queue").status in (401, 429))   # it has knocked often by now
    assert farm.words("token", "revoke", "ann").returncode == 1
    assert "revoked" in farm.words("token", "list").stdout


def test_two_tokens_of_one_name_change_over_without_a_gap(farm):
    old, new = farm.token("user", "ann"), farm.token("user", "ann")
    farm.start()
    id = farm.client(old).create()["id"]
    oldest = farm.words("token", "list").stdout.split()[0]
    assert farm.client(new).video(id)["user"] == "ann"
    farm.words("token", "revoke", oldest)
    until(lambda: farm.client(old).get("/v1/queue").status == 401 or farm.client(new).get("/v1/queue").status == 401)
    assert sorted(farm.client(t).get("/v1/queue").status for t in (old, new)) == [200, 401]


def test_only_hashes_are_kept(farm):
    token = farm.token("operator")
    farm.start()
    everything = b"".join(p.read_bytes() for p in (farm.server.folder / "data").glob("farm.db*"))
    assert token.encode() not in everything and bytes.fromhex(token[3:]) not in everything
    assert (farm.server.folder / "data" / "farm.db").stat().st_mode & 0o077 == 0


def test_words_that_make_no_sense_are_answered_with_how_it_goes(farm):
    for words in (["token"], ["token", "create"], ["token", "create", "--role", "king"], ["token", "create", "--role"],
                  ["token", "create", "--role", "user", "--name", "a b"], ["token", "revoke"], ["backup"],
                  ["token", "list", "x"], ["webhook-secret", "now"]):
        done = farm.words(*words)
        assert done.returncode == 2 and done.stderr.startswith("framefarm-server: ") and not done.stdout, words


def test_many_wrong_tokens_are_slowed_down_but_a_right_one_passes(farm):
    token = farm.token("user", "ann")
    farm.start()
    statuses = [farm.client("ff_%064x" % i).get("/v1/queue").status for i in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    assert farm.client(token).get("/v1/queue").status == 200
    assert farm.client().get("/v1/queue").status == 401     # who shows none has guessed nothing


def test_a_ticket_opens_what_a_browser_fetches_by_itself_and_nothing_else(farm):
    token, worker, other = farm.token("user", "ann"), farm.token("worker"), farm.token("user", "ben")
    farm.start()
    client, nobody = farm.client(token), farm.client()
    id = client.create()["id"]
    Worker(farm.client(worker)).work_all()
    answer = client.post("/v1/tickets").json()
    ticket = answer["ticket"]
    assert 0 < answer["expires_at"] - time.time() <= 3600
    content = "/v1/videos/%s/content" % id
    assert nobody.get(content, ticket=ticket).body == client.get(content).body
    assert nobody.get(content, ticket=ticket, variant="thumbnail").status == 200
    assert nobody.get("/v1/videos/%s/timings" % id, ticket=ticket, format="csv").status == 200
    assert read_event(farm.client(), "/v1/events?ticket=" + ticket)
    assert nobody.get("/v1/videos", ticket=ticket).status == 401
    assert nobody.get(content).status == 401
    end, rest = ticket.split(".", 1)
    assert nobody.get(content, ticket="%d.%s" % (int(end) + 1, rest)).status == 401
    assert nobody.get(content, ticket=ticket[:-1] + ("0" if ticket[-1] != "0" else "1")).status == 401
    assert nobody.get(content, ticket=farm.client(other).post("/v1/tickets").json()["ticket"]).status == 404
    farm.words("token", "revoke", "ann")
    until(lambda: nobody.get(content, ticket=ticket).status == 401)


def test_a_ticket_is_taken_and_ignored_where_no_token_is_needed(client, worker):
    id = client.create()["id"]
    worker.work_all()
    ticket = client.post("/v1/tickets").json()["ticket"]
    assert client.get("/v1/videos/%s/content" % id, ticket=ticket).status == 200


def test_local_workers_get_a_token_of_their_own(tmp_path):
    server = supervised(tmp_path).start("--require-tokens", workers="1")
    line = until(lambda: starts(server))[0]
    path = server.folder / "data" / "workers" / "token"
    assert "--token-file %s" % path in line and path.stat().st_mode & 0o077 == 0
    client = Client(server.port)
    answer = client.post("/farm/v1/lease", {}, headers={"Authorization": "Bearer " + path.read_text()})
    assert answer.status == 400      # let in; it is the message that is wrong
    assert client.get("/v1/queue", headers={"Authorization": "Bearer " + path.read_text()}).status == 403
    server.finish()


def test_a_proxy_may_send_any_host_when_tokens_are_required(farm):
    token = farm.token("user", "ann")
    farm.start()
    assert farm.client(token).get("/v1/queue", headers={"Host": "farm.example"}).status == 200


def test_an_old_database_gets_the_tables(farm):
    farm.start()
    assert farm.server.stop() == 0
    farm.server.process = None
    with sqlite3.connect(farm.server.folder / "data" / "farm.db") as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        assert version >= 2 and os.path.exists(farm.server.folder / "data" / "farm.db")
    assert farm.token("user")
