"""The stock npm client beside the real server, with the worker of pretence of tests/http.

SPDX-License-Identifier: Apache-2.0
"""
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading

import pytest

import fetch

HERE = pathlib.Path(__file__).resolve().parent


def load_farm():
    spec = importlib.util.spec_from_file_location("http_farm", HERE.parent / "http" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


farm = load_farm()
server, client, worker = farm.server, farm.client, farm.worker  # the fixtures


class SdkError(Exception):
    """What the client threw; its fields as attributes, the class's name as `kind`."""

    def __init__(self, error):
        super().__init__(error["class"] + ": " + error.get("message", ""))
        self.kind = error["class"]
        self.headers = error["headers"]
        for name in ("status", "code", "param", "type", "requestID"):
            setattr(self, name, error.get(name))


class Node:
    """One node process; sdk("return client.videos.list()") is what a person would type. One call at a time."""

    def __init__(self, package):
        self.process = subprocess.Popen([shutil.which("node") or "nodejs", HERE / "bridge.mjs", package],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = None

    def __call__(self, code, args=None, port=None, **options):
        url = "http://127.0.0.1:%d/v1" % (port or self.port)
        call = {"code": code, "args": args or {}, "baseURL": url, "options": options}
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "node ended"
        answer = json.loads(line)
        if "error" in answer:
            raise SdkError(answer["error"])
        return answer["value"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(farm.DEADLINE)


class LossyProxy:
    """Passes bytes on to the server, and loses the answers to the next `losses` requests that begin with `losing`: the
    connection is cut once the server has answered, which it does only after the commit. `before_cut` runs before."""

    def __init__(self, port):
        self.port_behind = port
        self.losses, self.losing = 0, b"POST "
        self.before_cut = lambda: None
        self.requests = []  # first bytes of each request, in order of arrival
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(near,), daemon=True).start()

    def serve(self, near):
        far = socket.create_connection(("127.0.0.1", self.port_behind))
        kind = [b""]
        threading.Thread(target=self.pass_on, args=(near, far, kind), daemon=True).start()
        try:
            while data := far.recv(65536):
                if self.losses and kind[0].startswith(self.losing):
                    self.losses -= 1
                    self.before_cut()
                    break
                near.sendall(data)
        except OSError:
            pass
        for end in (near, far):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def pass_on(self, near, far, kind):
        try:
            while data := near.recv(65536):
                if data.startswith((b"GET ", b"POST ", b"DELETE ")):
                    kind[0] = data[:2000]
                    self.requests.append(kind[0])
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.close()


@pytest.fixture(scope="session")
def node():
    if not (shutil.which("node") or shutil.which("nodejs")):
        pytest.exit("no node", 77)
    cache = os.environ.get("FRAMEFARM_SDK_CACHE") or HERE.parents[1] / "build" / "sdk"
    try:
        package = fetch.install(cache)
    except fetch.Unreachable as error:
        pytest.exit("the npm package is not there and its registry cannot be reached: %s" % error, 77)
    node = Node(package)
    yield node
    node.close()


@pytest.fixture
def sdk(node, server):
    node.port = server.port
    return node


@pytest.fixture
def proxy(server):
    proxy = LossyProxy(server.port)
    yield proxy
    proxy.close()
