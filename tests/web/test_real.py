"""The page against the real server: what fake_server.py pretends is held against what is so.
Skipped until FRAMEFARM_SERVER names a program that is there.
SPDX-License-Identifier: Apache-2.0
"""
import os

import pytest

from conftest import Page
from real_farm import FILE, RealFarm

SERVER = os.environ.get("FRAMEFARM_SERVER", "")
pytestmark = pytest.mark.skipif(not os.access(SERVER, os.X_OK), reason="no framefarm-server is built")


@pytest.fixture
def farm(tmp_path):
    real = RealFarm(SERVER, tmp_path / "data")
    yield real
    real.close()


@pytest.fixture
def page(chromium, farm):
    chromium.get("about:blank")
    chromium.get_log("browser")
    it = Page(chromium, farm)
    it.expected.append("variant=preview")   # asked for while there may be none
    yield it
    complaints = it.complaints()
    chromium.get("about:blank")
    assert not complaints, complaints


def test_prompt_becomes_a_video_that_plays_with_its_timings(page, farm):
    farm.register()
    farm.work()
    page.open()
    page.says("#welcome", "Make the first one")
    page.type_prompt("a red circle moves left")
    page.js("""const frames = document.querySelector('[name=frames]');
               frames.value = 161;
               frames.dispatchEvent(new Event('input', {bubbles: true}));""")
    page.says("#becomes", "161 frames = 2 segments, 322 frames at 32 fps, 10.06 s")
    page.button("Make video").click()
    page.says("#now .doing", "Segment 1 of 2 · low noise, step 1 of 2")
    page.says("#now .who", "on attic-cpu0")
    farm.go.set()
    page.one("#grid .tile-link").click()
    page.until(lambda: page.js("return document.querySelector('#job video')?.currentTime > 0"))
    page.one("#job .timeline")
    rows = [[cell.text for cell in row.find_elements("css selector", "th, td")] for row in page.all("#job table tr")]
    assert [row[0] for row in rows] == ["Seconds", "Segment 1", "Segment 2", "Join", "Together"]
    assert farm.call("GET", "/v1/queue")["jobs"]["completed"] == 1    # the dry runs made none


def test_an_empty_farm_offers_what_the_installed_model_can_draw(page, farm):
    farm.register()
    page.open()
    page.until(lambda: [e.text for e in page.all("#welcome .example")] == FILE["examples"][:3])
    page.all("#welcome .example")[0].click()
    page.until(lambda: page.one("#prompt").get_attribute("value") == FILE["examples"][0])
    assert not page.all("#unknown")
    page.one("#prompt").send_keys(" beside a xylophone")
    page.says("#unknown", "does not know")
    page.says("#unknown", "“xylophone”")


def test_cancel_retry_and_delete_reach_the_server(page, farm):
    farm.register()
    farm.work()
    job = farm.call("POST", "/v1/videos", {"prompt": "a blue square"})["id"]
    page.open()
    page.says("#now", "a blue square")
    page.button("Cancel", "#now").click()
    page.says("#grid", "Cancelled")
    assert farm.call("GET", f"/v1/videos/{job}")["state"] == "cancelled"
    farm.go.set()
    page.button("Retry", "#grid").click()
    page.until(lambda: page.all("#grid .is-completed"))
    page.one("#grid .tile-link").click()
    page.button("Delete", "#job").click()
    page.until(lambda: farm.call("GET", "/v1/videos")["data"] == [])
    page.says("#welcome", "Make the first one")


def test_all_failed_jobs_are_queued_again_by_the_server(page, farm):
    farm.register()
    farm.broken = True
    farm.go.set()
    for prompt in ("a blue square", "a red circle"):
        farm.call("POST", "/v1/videos", {"prompt": prompt, "num_frames": 9, "user": "ann"})
    farm.work()
    page.open()
    page.button("Retry all failed (2)")
    farm.broken = False
    page.button("Retry all failed (2)").click()
    page.says("#toasts", "2 videos queued again.")
    page.until(lambda: len(page.all("#grid .is-completed")) == 2 and not page.all("#retry-all"))
    page.open("/#/farm")
    page.until(lambda: "2 videos" in " ".join(i.get_attribute("title") for i in page.all("#hours .columns i")))


def test_lines_become_a_batch_that_waits_in_order_and_can_be_paused(page, farm):
    page.open()
    farm.register()
    page.type_prompt("first\ue007second\ue007third")
    page.button("Make 3 videos, one per line").click()
    page.button("Make 3 videos").click()
    page.until(lambda: [t.text for t in page.all("#waiting-list .title")] == ["first", "second", "third"])
    page.all("#waiting-list .front")[2].click()
    page.until(lambda: page.all("#waiting-list .title")[0].text == "third")
    page.button("Pause").click()
    page.says("#held", "The queue is paused")
    assert farm.call("GET", "/v1/queue")["paused"] is True


def test_start_image_reaches_the_server(page, farm, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    farm.register()
    image = tmp_path / "start.png"
    image_module.new("RGB", (64, 48), "red").save(image)
    page.open()
    page.browser.find_element("css selector", "#image-file").send_keys(str(image))
    page.type_prompt("it turns")
    page.button("Make video").click()
    page.says("#waiting-list", "it turns")
    assert farm.call("GET", "/v1/videos")["data"][0]["has_input_reference"] is True


def test_first_view_is_under_60_kilobytes_and_asks_nobody_else(page, farm):
    page.open()
    page.one("#welcome")
    entries = page.js("""return ['navigation', 'resource'].flatMap(type => performance.getEntriesByType(type))
        .map(e => ({name: e.name, bytes: e.transferSize}))""")
    assert all(e["name"].startswith(farm.url) for e in entries), entries
    assert 10_000 < sum(e["bytes"] for e in entries) < 60_000, entries


def test_farm_page_shows_the_worker(page, farm):
    farm.register("attic-cpu7")
    page.open("/#/farm")
    page.says("#workers", "attic-cpu7")
    page.says("#workers", "25 GiB")
    page.says("#version", "0.1.0")
