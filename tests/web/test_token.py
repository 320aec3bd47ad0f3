"""The page on a farm that asks for tokens: it asks kindly, once, and pictures come by ticket.
Skipped until FRAMEFARM_SERVER names a program that is there.
SPDX-License-Identifier: Apache-2.0
"""
import os
import subprocess
import sys

import pytest

from conftest import Page

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "http"))

SERVER = os.environ.get("FRAMEFARM_SERVER", "")
pytestmark = pytest.mark.skipif(not os.access(SERVER, os.X_OK), reason="no framefarm-server is built")
CLIP = os.path.join(os.path.dirname(__file__), "clips")


class Farm:
    """Just the address; the rest is asked for with curl's like."""

    def __init__(self, folder):
        self.data, self.port_file = folder / "data", folder / "port"
        self.tokens = {role: self.words("token", "create", "--role", role, "--name", role) for role in ("user", "worker")}
        self.process = subprocess.Popen([SERVER, "--listen", "127.0.0.1:0", "--data", self.data, "--workers", "0",
                                         "--require-tokens", "--port-file", self.port_file], stderr=subprocess.DEVNULL)

    def words(self, *words):
        return subprocess.run([SERVER, *words, "--data", self.data], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def farm(tmp_path):
    farm = Farm(tmp_path)
    import importlib.util
    spec = importlib.util.spec_from_file_location("http_conftest", os.path.join(sys.path[0], "conftest.py"))
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    helpers.until(farm.port_file.exists)
    farm.port = int(farm.port_file.read_text())
    farm.url = "http://127.0.0.1:%d" % farm.port
    farm.helpers = helpers
    yield farm
    farm.process.terminate()
    farm.process.wait(20)


def client(farm, role):
    it = farm.helpers.Client(farm.port)
    plain = it.ask
    it.ask = lambda method, path, body=None, headers=None, **query: plain(
        method, path, body, {"Authorization": "Bearer " + farm.tokens[role], **(headers or {})}, **query)
    return it


@pytest.fixture
def page(chromium, farm):
    chromium.get("about:blank")
    chromium.get_log("browser")
    it = Page(chromium, farm)
    it.expected.append("401")
    it.expected.append("variant=preview")
    yield it
    complaints = it.complaints()
    chromium.get("about:blank")
    assert not complaints, complaints


def until_js(page, script):
    return page.farm.helpers.until(lambda: page.js("return " + script))


def test_the_page_asks_for_a_token_and_shows_what_it_opens(page, farm):
    id = client(farm, "user").create(prompt="a red circle", num_frames=5)["id"]
    farm.helpers.Worker(client(farm, "worker")).work_all()
    page.open()
    until_js(page, "document.querySelector('#token[open]') !== null")
    page.js("const i = document.querySelector('#token input'); i.value = 'ff_wrong'; i.form.requestSubmit()")
    until_js(page, "document.querySelector('#token[open] h2')?.textContent.includes('not known') ?? false")
    page.js("const i = document.querySelector('#token input'); i.value = arguments[0]; i.form.requestSubmit()",
            farm.tokens["user"])
    until_js(page, "document.querySelector('#grid li') !== null")
    address = until_js(page, "document.querySelector('#grid img')?.src ?? ''")
    assert id in address and "ticket=" in address and farm.tokens["user"] not in address
    assert page.js("return document.querySelector('#token[open]')") is None
    assert farm.helpers.Client(farm.port).get(address[len(farm.url):]).status == 200
