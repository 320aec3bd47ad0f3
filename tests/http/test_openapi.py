"""schema/openapi.yaml against the running server, both ways: every route and key is documented, every documented one is there.

SPDX-License-Identifier: Apache-2.0
"""
import json
import re
import subprocess

import yaml

from conftest import PNG, ROOT, server_program

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


def check_answer(answer, method, path):
    operation = SPEC["paths"][path][method]
    documented = operation["responses"].get(str(answer.status))
    assert documented, "%s %s: %d is not documented" % (method, path, answer.status)
    content = resolve(documented).get("content", {})
    kind = (answer.headers["content-type"] or "").split(";")[0]
    if content:
        assert kind in content, "%s %s: %s is not documented" % (method, path, kind)
    schema = content.get(kind, {}).get("schema")
    if not schema:
        return
    for text in answer.body.splitlines() if kind == "application/x-ndjson" else [answer.body]:
        check(json.loads(text), schema)


def routes():
    lines = subprocess.run([server_program(), "--routes"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {tuple(line.replace("{*}", "{file}").split()) for line in lines}


def test_every_route_is_documented_and_every_documented_one_is_there():
    served = {(method, path) for method, path in routes() if not path.startswith("/farm/")}
    documented = {(method.upper(), path) for path, item in SPEC["paths"].items() for method in item if method in METHODS}
    assert served == documented


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
    """Walks a job through its life and holds each answer against its schema."""
    def ask(method, path, answer):
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
    ask("post", "/v1/queue/pause", client.post("/v1/queue/pause"))
    ask("post", "/v1/queue/resume", client.post("/v1/queue/resume"))
    ask("get", "/v1/timings", client.get("/v1/timings"))
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.yaml", "/"):
        ask("get", path, client.get(path))
    ask("delete", one, client.delete("/v1/videos/" + id))
    ask("delete", one, client.delete("/v1/videos/" + id))


def test_every_documented_request_field_is_known_and_no_other(client, worker):
    documented = SPEC["components"]["schemas"]["CreateVideo"]["properties"]
    table = (ROOT / "schema" / "request.c").read_text()
    known = set(re.findall(r'\[RF_FIELD_\w+\] = \{"(\w+)"', table))
    assert known == set(documented)


def test_the_described_limits_are_the_real_ones(client, worker):
    for name, schema in SPEC["components"]["schemas"]["CreateVideo"]["properties"].items():
        for limit, step in (("minimum", -1), ("maximum", 1)):
            if limit not in schema:
                continue
            over = schema[limit] + step * schema.get("multipleOf", 4 if "frames" in name else 1)
            answer = client.post("/v1/videos", {"prompt": "x", name: over}, dry_run=1)
            assert answer.status == 400 and answer.error["param"] == name, (name, over, answer.body)
