"""schema/openapi.yaml against the running server, both ways: every route and key is documented, every documented one is
there.

SPDX-License-Identifier: Apache-2.0
"""
import http.client
import json
import re
import socket
import subprocess

import pytest
import yaml

from conftest import DEADLINE, PNG, ROOT, Answer, server_program

SPEC = yaml.safe_load((ROOT / "schema" / "openapi.yaml").read_text())
METHODS = ("get", "post", "put", "delete")


def resolve(schema):
    while "$ref" in schema:
        node = SPEC
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    return schema


TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list,
         "null": type(None)}


def check(value, schema, where="$"):
    """As much of JSON Schema as openapi.yaml uses; a keyword it does not know fails, so that none is ignored."""
    schema = resolve(schema)
    unknown = set(schema) - {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "minimum",
                             "maximum", "description", "example", "default", "pattern", "minLength", "maxLength", "maxItems",
                             "multipleOf", "contentMediaType", "allOf"}
    assert not unknown, (where, unknown)
    types = schema.get("type")
    if types:
        types = [types] if isinstance(types, str) else types
        good = any(isinstance(value, TYPES[t]) and not (isinstance(value, bool) and t in ("integer", "number")) for t in types)
        assert good, "%s: %r is no %s" % (where, value, types)
    if "enum" in schema:
        assert value in schema["enum"], (where, value)
    if "const" in schema:
        assert value == schema["const"], (where, value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value), (where, value)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        missing = set(schema.get("required", ())) - set(value)
        assert not missing, "%s lacks %s" % (where, missing)
        extra = schema.get("additionalProperties", True)
        for key, inner in value.items():
            if key in properties:
                check(inner, properties[key], where + "." + key)
            elif isinstance(extra, dict):
                check(inner, extra, where + "." + key)
            else:
                assert extra, "%s.%s is not documented" % (where, key)
    if isinstance(value, list):
        for i, inner in enumerate(value):
            check(inner, schema.get("items", {}), "%s[%d]" % (where, i))


# What any call may answer, as the description says at its top.
ANY_CALL = {"400", "401", "403", "413", "503"}


def check_answer(answer, method, path):
    responses = SPEC["paths"][path][method]["responses"]
    code = str(answer.status)
    assert code in responses or code in ANY_CALL, "%s %s: %s is not documented" % (method, path, code)
    documented = resolve(responses.get(code, SPEC["components"]["responses"]["Error"]))
    content = documented.get("content", {})
    kind = (answer.headers["content-type"] or "").split(";")[0]
    if content:
        assert kind in content, "%s %s: %s is not documented" % (method, path, kind)
    assert answer.headers["x-request-id"], (method, path)
    for name, header in documented.get("headers", {}).items():
        value = answer.headers[name]
        if value is not None:
            check(int(value) if header["schema"]["type"] == "integer" else value, header["schema"], name)
    schema = content.get(kind, {}).get("schema")
    if not schema or not answer.body:
        return
    for text in answer.body.splitlines() if kind == "application/x-ndjson" else [answer.body]:
        check(json.loads(text), schema)


def operations():
    return {(method, path) for path, item in SPEC["paths"].items() for method in item if method in METHODS}


def routes():
    lines = subprocess.run([server_program(), "--routes"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {tuple(line.replace("{*}", "{file}").split()) for line in lines}


def test_every_route_is_documented_and_every_documented_one_is_there():
    served = {(method, path) for method, path in routes() if not path.startswith("/farm/")}
    assert served == {(method.upper(), path) for method, path in operations()}


def test_every_farm_route_is_in_the_contract():
    text = (ROOT / "schema" / "api.md").read_text()
    for method, path in routes():
        if path.startswith("/farm/"):
            assert "`%s %s" % (method, path) in text, (method, path)


def test_every_reference_in_the_description_leads_somewhere():
    for reference in set(re.findall(r'\$ref: "([^"]+)"', (ROOT / "schema" / "openapi.yaml").read_text())):
        assert resolve({"$ref": reference})


def test_the_server_gives_out_its_description(client):
    answer = client.get("/openapi.yaml")
    assert answer.status == 200 and yaml.safe_load(answer.body) == SPEC


def test_every_answer_is_as_described(client, worker):
    """Walks a job through its life and holds each answer against its schema; no operation is left out."""
    walked = set()

    def ask(method, path, answer):
        walked.add((method, path))
        check_answer(answer, method, path)
        return answer
    form = client.form("/v1/videos", [("prompt", "x"), ("num_frames", "161"), ("loras[][name]", "demo_4steps"),
                                      ("user", "ann"), ("input_reference", "a.png", "image/png", PNG)])
    id = ask("post", "/v1/videos", form).json()["id"]
    one = "/v1/videos/{id}"
    ask("post", "/v1/videos", client.post("/v1/videos", {"prompt": "x"}, dry_run=1))
    ask("post", "/v1/videos", client.post("/v1/videos", {"promt": "x"}))
    ask("post", "/v1/videos/batch", client.ask("POST", "/v1/videos/batch", b'{"prompt":"a"}\n{"x":1}\n'))
    ask("post", "/v1/videos/batch", client.ask("POST", "/v1/videos/batch", b'{"x":1}\n'))
    ask("get", one, client.get("/v1/videos/" + id))
    task = worker.take()
    worker.beat(task)
    worker.about(task, "fail", code="device", message="gone", retryable=True, timings=[])
    ask("get", one, client.get("/v1/videos/" + id))
    ask("post", one + "/cancel", client.post("/v1/videos/%s/cancel" % id))
    ask("post", one + "/cancel", client.post("/v1/videos/nothing/cancel"))
    ask("post", one + "/retry", client.post("/v1/videos/%s/retry" % id))
    ask("post", one + "/retry", client.post("/v1/videos/%s/retry" % id))
    ask("post", one + "/priority", client.post("/v1/videos/%s/priority" % id, {"priority": 3}))
    ask("post", one + "/move", client.post("/v1/videos/%s/move" % id, {"before": client.create()["id"]}))
    ask("post", one + "/move", client.post("/v1/videos/%s/move" % id, {}))
    worker.work_all()
    ask("get", one, client.get("/v1/videos/" + id))
    ask("get", "/v1/videos", client.get("/v1/videos"))
    ask("get", "/v1/videos", client.get("/v1/videos", limit="x"))
    ask("get", one + "/content", client.get("/v1/videos/%s/content" % id))
    ask("get", one + "/content", client.get("/v1/videos/%s/content" % id, {"Range": "bytes=1-2"}))
    ask("get", one + "/content", client.get("/v1/videos/%s/content" % id, {"Range": "bytes=99999999-"}))
    ask("get", one + "/timings", client.get("/v1/videos/%s/timings" % id))
    ask("get", one + "/timings", client.get("/v1/videos/%s/timings?format=csv" % id))
    ask("post", one + "/remix", client.post("/v1/videos/%s/remix" % id, {"prompt": "y"}))
    ask("post", "/v1/videos/retry", client.post("/v1/videos/retry"))
    ask("get", "/v1/models", client.get("/v1/models"))
    ask("get", "/v1/workers", client.get("/v1/workers"))
    ask("post", "/v1/workers/{id}/drain", client.post("/v1/workers/%s/drain" % worker.id))
    ask("get", "/v1/queue", client.get("/v1/queue"))
    ask("get", "/v1/throughput", client.get("/v1/throughput"))
    ask("post", "/v1/queue/pause", client.post("/v1/queue/pause"))
    ask("post", "/v1/queue/resume", client.post("/v1/queue/resume"))
    ask("get", "/v1/timings", client.get("/v1/timings"))
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.yaml", "/"):
        ask("get", path, client.get(path))
    ask("delete", one, client.delete("/v1/videos/" + id))
    ask("post", "/v1/tickets", client.post("/v1/tickets"))
    ask("get", "/{file}", client.get("/" + re.search(r'src="([\w./-]+\.js)"', client.get("/").body.decode())[1]))
    ask("delete", one, client.delete("/v1/videos/" + id))
    with socket.create_connection(("127.0.0.1", client.port), timeout=DEADLINE) as events:  # has no end
        events.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = events.recv(4096).lower()
        assert head.startswith(b"http/1.1 200") and b"content-type: text/event-stream" in head
    assert operations() - walked == {("get", "/v1/events")}


@pytest.mark.parametrize("what", ["nothing of that name", "a body of noise", "a body over the limit", "a broken query",
                                  "a header given twice"])
def test_every_refusal_is_documented_and_an_error_object(server, client, what):
    for method, path in sorted(operations()):
        address = path.replace("{id}", "nothing").replace("{file}", "nothing.js")
        headers, body = {}, None
        if what == "a body of noise":
            body = b"\xff{noise"
        elif what == "a body over the limit" and method == "post":
            body, headers = b"x", {"Content-Length": str(1 << 40), "Expect": "100-continue"}
        elif what == "a broken query":
            address += "?%zz"
        if path == "/v1/events" and what not in ("a broken query", "a header given twice"):
            continue  # would be answered, without an end
        if what == "a header given twice":
            answer = raw_answer(server, method, address, b"Content-Type: a/b\r\nContent-Type: c/d\r\n")
        else:
            answer = server.client().ask(method.upper(), address, body, headers)
        check_answer(answer, method, path)
        assert answer.status not in (404, 405) or "{" in path, (method, path)
        assert answer.status < 400 or answer.headers["content-type"] == "application/x-ndjson" or answer.error
        if what in ("a broken query", "a header given twice"):
            assert answer.status == 400, (method, path, answer.status)


def raw_answer(server, method, address, headers):
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as s:
        s.sendall(b"%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (method.upper().encode(), address.encode(), headers))
        response = http.client.HTTPResponse(s)
        response.begin()
        return Answer(response, response.read())


def test_documented_query_parameters_are_taken_and_no_others(client, worker):
    for method, path in sorted(operations()):
        names = [resolve(p) for p in SPEC["paths"][path][method].get("parameters", ()) if resolve(p)["in"] == "query"]
        address = path.replace("{id}", "nothing")
        for parameter in names:
            schema = parameter["schema"]
            value = schema["enum"][0] if "enum" in schema else schema.get("example", schema.get("minimum", "x"))
            answer = client.ask(method.upper(), address, **{parameter["name"]: value})
            assert b"unknown query parameter" not in answer.body, (method, path, parameter["name"])
        if names:
            answer = client.ask(method.upper(), address, nonsense=1)
            assert answer.status == 400 and "nonsense" in answer.error["message"], (method, path)


# ---- the request's fields ----

def constants():
    """The #defines of the schema's headers that are numbers, as far as the table needs them."""
    found = {}
    for name in ("plan.h", "request.h"):
        text = (ROOT / "schema" / name).read_text()
        for key, value in re.findall(r"#define (RF_\w+) (.+?)(?:\s*/\*.*)?$", text, re.M):
            value = re.sub(r"INT64_C\((\d+)\)", r"\1", value)
            if re.fullmatch(r"[\d\s()+*<-]+", value):
                found[key] = eval(value)
    return found


def table():
    """name -> (kind, min, max, multiple, remainder, fallback) as rf_request_fields has them."""
    rows = {}
    row = re.compile(r'\[RF_FIELD_\w+\] = \{"(\w+)", RF_KIND_(\w+), ([^,]+), ([^,]+), (\d+), (\d+), (NULL|"[^"]*"),')
    for name, kind, low, high, multiple, remainder, fallback in row.findall((ROOT / "schema" / "request.c").read_text()):
        low, high = (eval(text.replace("(double)", ""), {}, constants()) for text in (low, high))
        fallback = None if fallback == "NULL" else fallback.strip('"')
        rows[name] = (kind, low, high, int(multiple), int(remainder), fallback)
    return rows


def test_every_request_field_is_documented_with_its_kind_range_and_default():
    documented = SPEC["components"]["schemas"]["CreateVideo"]["properties"]
    rows = table()
    assert set(rows) == set(documented) and len(rows) > 20
    for name, (kind, low, high, multiple, remainder, fallback) in rows.items():
        schema = documented[name]
        if kind == "TEXT":
            assert (schema["type"], schema.get("minLength", 0), schema["maxLength"]) == ("string", low, high), name
        elif kind in ("INTEGER", "NUMBER"):
            assert kind.lower() in schema["type"], name
            if "enum" in schema:
                assert schema["enum"] == list(range(int(low), int(high) + 1, multiple)), name
            else:
                assert (schema["minimum"], schema["maximum"]) == (low, high), name
                # 4k+1 cannot be said in the schema's language, so its words say it
                assert schema.get("multipleOf", 0) == (multiple if remainder == 0 else 0), name
                assert not remainder or "%dk+%d" % (multiple, remainder) in schema["description"], name
        # "random", "model" and the like are no values; an empty text means none
        if fallback is not None and re.fullmatch(r"-?\d+", fallback):
            assert schema["default"] == int(fallback), name
        elif name != "negative_prompt":
            assert "default" not in schema, name


def test_the_documented_defaults_are_what_a_job_gets(client, worker):
    video = client.create()
    for name, schema in SPEC["components"]["schemas"]["CreateVideo"]["properties"].items():
        if "default" in schema:
            assert video[name] == schema["default"], name


def test_the_described_limits_are_the_real_ones(client, worker):
    for name, schema in SPEC["components"]["schemas"]["CreateVideo"]["properties"].items():
        others = {"width": {"height": 64}, "height": {"width": 64}, "switch_step": {"num_inference_steps": 100},
                  "num_frames": {"max_segment_frames": 81}}.get(name, {})
        for limit, step in (("minimum", -1), ("maximum", 1)):
            if limit not in schema:
                continue
            answer = client.post("/v1/videos", {"prompt": "x", **others, name: schema[limit]}, dry_run=1)
            assert answer.status == 200 or (name, limit) == ("max_segment_frames", "maximum"), (name, answer.body)
            over = schema[limit] + step * schema.get("multipleOf", 4 if "frames" in name else 1)
            answer = client.post("/v1/videos", {"prompt": "x", **others, name: over}, dry_run=1)
            assert answer.status == 400 and answer.error["param"] == name, (name, over, answer.body)
