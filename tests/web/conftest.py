"""Fixtures for the page's tests: one Chromium for all, a fresh farm (so a fresh origin with empty storage) for each.
After every test the browser's console must be empty: that is where errors and violated content policies show.
SPDX-License-Identifier: Apache-2.0
"""
import re
import shutil
import tempfile
import threading
import time

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="python3-selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from fake_server import FakeFarm  # noqa: E402

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required",
         "--window-size=1280,900"]
PATIENCE_S = 20     # how long a condition may take to come true; on a good day none takes a second


@pytest.fixture(scope="session")
def chromium():
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium or chromedriver is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in FLAGS + [f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(driver))
        yield browser
        browser.quit()


@pytest.fixture
def farm():
    with FakeFarm() as fake:
        yield fake


class Page:
    """The page as a person meets it: found by what it says, waited for by condition, never by time."""

    def __init__(self, browser, farm):
        self.browser, self.farm = browser, farm
        self.expected = []      # patterns of console lines that this test provokes on purpose

    def open(self, path="/"):
        self.browser.get(self.farm.url + path)
        return self

    def load_again(self):
        try:
            self.browser.refresh()
        except TimeoutException:        # a busy machine: the driver loses sight of the load it began; it asks once more
            self.browser.refresh()

    def js(self, script, *args):
        return self.browser.execute_script(script, *args)

    def all(self, css):
        return [el for el in self.browser.find_elements(By.CSS_SELECTOR, css) if el.is_displayed()]

    def one(self, css):
        return self.until(lambda: next(iter(self.all(css)), None), f"'{css}' to be seen")

    def text(self, css):
        return self.js("""const e = document.querySelector(arguments[0]);
                          return e && e.checkVisibility() ? e.innerText : '';""", css)

    def until(self, condition, what="a condition", patience_s=PATIENCE_S):
        end = time.monotonic() + patience_s
        while True:
            try:
                if value := condition():
                    return value
            except Exception as problem:  # elements go stale while the page lives; the next look finds the new ones
                if "stale" not in str(problem).lower() and "no longer attached" not in str(problem):
                    raise
            assert time.monotonic() < end, f"waited {patience_s} s for {what}"
            threading.Event().wait(0.02)

    def says(self, css, words):
        return self.until(lambda: words in self.text(css), f"'{css}' to say '{words}', it says '{self.text(css)}'")

    def button(self, name, within="body"):
        def look():
            for el in self.all(f"{within} button, {within} a, {within} summary"):
                if name in (el.text.strip(), el.get_attribute("aria-label")):
                    return el
        return self.until(look, f"a button '{name}'")

    def type_prompt(self, text):
        self.one("#prompt").send_keys(text)

    def press(self, *keys):
        self.browser.switch_to.active_element.send_keys(*keys)

    def asked(self, method, pattern):
        """Bodies of the requests that the farm got."""
        return [body for m, path, body in list(self.farm.requests) if m == method and re.search(pattern, path)]

    def lists(self):
        """Queries of the lists that the farm was asked for."""
        return [path.partition("?")[2] for _, path, _ in list(self.farm.requests) if path.startswith("/v1/videos?")]

    def media(self, **features):
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()]})

    def width(self, pixels, height=844):
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": pixels < 600})

    def complaints(self):
        lines = [entry["message"] for entry in self.browser.get_log("browser")
                 if entry["level"] in ("SEVERE", "WARNING")]
        return [line for line in lines if not any(re.search(p, line) for p in self.expected)]


@pytest.fixture
def page(chromium, farm):
    chromium.get("about:blank")
    chromium.get_log("browser")
    it = Page(chromium, farm)
    yield it
    complaints = it.complaints()
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get("about:blank")
    assert not complaints, complaints


__all__ = ["Keys"]
