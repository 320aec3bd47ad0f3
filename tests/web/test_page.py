"""What is being made, when mine is done, and what happens when things go wrong.
SPDX-License-Identifier: Apache-2.0
"""
import json
import re
import time
import urllib.parse

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from fake_server import scene_full

MARKUP = "<img src=x onerror=document.title='owned'><b>bold</b> &amp; \u202e \"quotes\""


def start(page, **fields):
    """One job in progress, some way in."""
    job = page.farm.add(**fields)
    page.farm.tick(0)
    page.farm.tick(9)
    return job


# ---- the first view ----

def test_first_view_is_under_60_kilobytes_and_asks_nobody_else(page):
    page.open()
    page.one("#welcome")
    entries = page.js("""return ['navigation', 'resource'].flatMap(type => performance.getEntriesByType(type))
        .map(e => ({name: e.name, bytes: e.transferSize}))""")
    assert all(e["name"].startswith(page.farm.url) for e in entries), entries
    total = sum(e["bytes"] for e in entries)
    assert 10_000 < total < 60_000, (total, entries)


def test_page_breaks_no_content_policy_in_any_view(page):
    scene_full(page.farm)
    page.open()
    page.one("#grid .tile")
    job = next(j["id"] for j in page.farm.jobs.values() if j["state"] == "completed")
    page.open(f"/#/{job}")
    page.one("#job .timeline")
    page.open("/#/farm")
    page.one(".worker")       # the fixture reads the console, where violations are written


# ---- now ----

def test_running_job_shows_its_true_stages_step_and_worker(page):
    start(page, prompt="a red circle", num_frames=161)
    page.open()
    page.says("#now .doing", "Segment 1 of 2 · low noise, step 1 of 2")
    page.says("#now .who", "on attic-cpu0")
    page.says("#now .left", "left")
    cells = page.js("""return [...document.querySelectorAll('#now .run')].map(run => [...run.children].map(c =>
        [c.className.replace('cell st-', ''), Number(c.style.getPropertyValue('--done'))]))""")
    assert [len(run) for run in cells] == [6, 6]
    assert cells[0][:2] == [["text", 1], ["high_noise", 1]]
    assert 0 < cells[0][2][1] < 1 and cells[0][3] == ["decode", 0]
    assert all(done == 0 for _, done in cells[1])


def test_a_16_fps_job_has_no_interpolation_in_its_bar(page):
    start(page, prompt="a red circle", fps=16)
    page.open()
    page.one("#now .stages")
    assert page.js("return document.querySelectorAll('#now .st-interpolate').length") == 0


def test_preview_of_the_running_job_is_shown(page):
    start(page, prompt="a red circle")
    page.open()
    page.until(lambda: page.js("return document.querySelector('#now .frame img')?.naturalWidth > 0"))


def test_finished_job_appears_among_the_done_by_itself(page):
    job = start(page, prompt="a patient circle")
    page.open()
    page.says("#now", "a patient circle")
    page.farm.complete(job)
    page.says("#grid", "a patient circle")
    page.until(lambda: not page.all("#now"))


def test_job_that_ends_while_a_page_of_the_done_is_fetched_is_not_lost(page):
    job = start(page, prompt="a patient circle")
    lists = page.farm.httpd.RequestHandlerClass.list_videos

    def late(handler, query):
        answer = lists(handler, query)
        if "completed" in query.get("status", "") and page.farm.jobs[job]["state"] == "in_progress":
            page.farm.complete(job)        # after the list was read, before it is answered
        return answer
    page.farm.httpd.RequestHandlerClass.list_videos = late
    page.open()
    page.says("#grid", "a patient circle")


def test_without_events_the_page_polls(page):
    page.expected.append("v1/events - Failed to load resource")
    page.farm.events = False
    job = start(page, prompt="a patient circle")
    page.open()
    page.says("#now", "a patient circle")
    page.farm.complete(job)
    page.says("#grid", "a patient circle")
    assert len(page.asked("GET", "/v1/events")) == 1


def test_cancelled_job_can_be_undone(page):
    job = start(page, prompt="a red circle")
    page.farm.workers = page.farm.workers[:1]
    other = page.farm.add("cancelled for good")
    page.open()
    page.button("Cancel", "#now").click()
    page.says("#now .doing", "Cancelled")
    page.button("Undo", "#now").click()
    page.says("#now .doing", "noise")
    page.button("Cancel", "#now")
    # A later cancel is the clock: once it has been sent, the time of the undone one is over too.
    page.button("Cancel", "#waiting").click()
    page.until(lambda: page.farm.jobs[other]["state"] == "cancelled")
    assert len(page.asked("POST", "/cancel")) == 1 and page.farm.jobs[job]["state"] == "in_progress"


def test_cancel_is_sent_when_nobody_undid_it(page):
    job = start(page, prompt="a red circle")
    page.open()
    begun = time.monotonic()
    page.button("Cancel", "#now").click()
    page.until(lambda: page.farm.jobs[job]["state"] == "cancelled")
    assert 4.5 < time.monotonic() - begun < 10
    page.until(lambda: not page.all("#now"))
    page.says("#grid", "a red circle")


def test_leaving_the_page_sends_the_cancel_at_once(page):
    job = start(page, prompt="a red circle")
    page.open()
    page.button("Cancel", "#now").click()
    page.browser.get("about:blank")
    begun = time.monotonic()
    page.until(lambda: page.farm.jobs[job]["state"] == "cancelled")
    assert time.monotonic() - begun < 3


# ---- waiting ----

def test_waiting_jobs_stand_in_order_with_their_expected_start(page):
    page.farm.workers = page.farm.workers[:1]
    for name in ("first", "second", "third"):
        page.farm.add(f"{name} in line")
    page.open()
    page.says("#waiting", "third in line")
    rows = [row.text.split("\n") for row in page.all("#waiting-list li")]
    assert [row[:2] for row in rows] == [["1", "first in line"], ["2", "second in line"], ["3", "third in line"]]
    assert "starts in about" in rows[2][2]


def waiting(page):
    return [el.text for el in page.all("#waiting-list .title")]


def three_in_line(page):
    for name in ("first", "second", "third"):
        page.farm.add(f"{name} in line")
    page.open()
    page.until(lambda: len(waiting(page)) == 3)


def test_a_job_can_be_made_the_next_one(page):
    three_in_line(page)
    page.all("#waiting-list .front")[2].click()
    page.until(lambda: waiting(page) == ["third in line", "first in line", "second in line"])
    assert page.asked("POST", "/move") and not page.asked("POST", "/priority")


def test_making_a_job_next_before_another_persons_raises_its_priority(page):
    page.farm.add("of ann", user="ann")
    page.farm.add("of ben", user="ben")
    page.open()
    page.until(lambda: len(waiting(page)) == 2)
    page.all("#waiting-list .front")[1].click()
    page.until(lambda: waiting(page) == ["of ben", "of ann"])
    assert json.loads(page.asked("POST", "/priority")[0]) == {"priority": 1}


@pytest.mark.parametrize("focus, keys", [(".title", (Keys.ALT, Keys.ARROW_UP)), (".grip", (Keys.ARROW_UP,))])
def test_arrow_keys_move_a_waiting_job_and_keep_the_focus(page, focus, keys):
    three_in_line(page)
    page.js(f"document.querySelectorAll('#waiting-list {focus}')[2].focus()")
    page.press(*keys)
    page.until(lambda: waiting(page) == ["first in line", "third in line", "second in line"])
    assert page.js("return document.activeElement.closest('.row').innerText.includes('third in line')")
    page.press(*keys[:-1], Keys.ARROW_DOWN)
    page.until(lambda: waiting(page) == ["first in line", "second in line", "third in line"])
    page.until(lambda: [j["prompt"][:6] for j in page.farm.order()] == ["first ", "second", "third "])


def drag(page, index, to_y):
    grip = page.all("#waiting-list .grip")[index]
    box = page.js("return arguments[0].getBoundingClientRect().toJSON()", grip)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = {"x": x, "button": "left", "buttons": 1, "clickCount": 1}
    for kind, at in (("mousePressed", y), ("mouseMoved", (y + to_y) / 2), ("mouseMoved", to_y), ("mouseReleased", to_y)):
        page.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {**mouse, "type": kind, "y": at})


def test_a_waiting_job_is_dragged_to_another_place(page):
    three_in_line(page)
    rows = [row.rect for row in page.all("#waiting-list .row")]
    top = page.js("return document.querySelector('#waiting-list').getBoundingClientRect().top")
    drag(page, 2, top + 3)
    page.until(lambda: waiting(page) == ["third in line", "first in line", "second in line"])
    page.until(lambda: [j["prompt"][:6] for j in page.farm.order()] == ["third ", "first ", "second"])
    drag(page, 0, top + 1.7 * rows[0]["height"])
    page.until(lambda: waiting(page) == ["first in line", "third in line", "second in line"])


def test_dragging_keeps_to_ones_own_jobs_because_people_take_turns(page):
    for name, user in (("ann 1", "ann"), ("ben 1", "ben"), ("ann 2", "ann")):
        page.farm.add(name, user=user)
    page.open()
    page.until(lambda: waiting(page) == ["ann 1", "ben 1", "ann 2"])
    drag(page, 2, page.js("return document.querySelector('#waiting-list').getBoundingClientRect().top") + 3)
    page.until(lambda: waiting(page) == ["ann 2", "ben 1", "ann 1"])
    drag(page, 1, page.js("return document.querySelector('#waiting-list').getBoundingClientRect().top") + 3)
    page.says("#toasts", "people take turns")
    assert waiting(page) == ["ann 2", "ben 1", "ann 1"]


def test_pages_left_behind_hold_no_connection(page):
    """Six pages behind the back button, each with an open stream, would leave none for the seventh."""
    for _ in range(8):
        page.open()
        page.one("#welcome")
        page.browser.get("about:blank")


def test_pause_is_a_state_that_shows_and_ends(page):
    page.farm.add("patience")
    page.open()
    page.button("Pause").click()
    page.says("#held", "The queue is paused")
    page.says("#pulse", "paused")
    page.says("#waiting-list", "on hold")
    assert page.farm.paused
    page.button("Resume").click()
    page.until(lambda: not page.all("#held"))
    assert not page.farm.paused


def test_what_was_just_sent_is_counted_at_once(page):
    page.open()
    page.one("#welcome")
    for i in range(3):
        page.type_prompt(f"number {i}")
        page.button("Make video").click()
        page.until(lambda: len(waiting(page)) == i + 1)
        assert page.text("#waiting .count") == str(i + 1)
        assert len(page.all(".toast")) == 1        # the newest message only


# ---- done ----

def test_failed_job_says_why_and_can_be_retried(page):
    job = page.farm.add("too large", state="failed", age=100)
    page.open()
    page.says("#grid", "The worker ran out of memory")
    page.open(f"/#/{job}")
    page.says("#job .stage-empty", "36.5 GiB")
    page.says("#job .stage-empty", "Retry with fewer frames or a smaller size")
    page.says("#job .attempts", "attic-cpu1")
    page.until(lambda: page.js("return document.querySelectorAll('#job .st-failed').length") == 3)
    page.button("Retry", "#job").click()
    page.says("#job .state", "Waiting")
    assert page.farm.jobs[job]["state"] == "queued"


def all_failed(page, *names, **fields):
    return [page.farm.add(name, state="failed", age=100 + i, **fields) for i, name in enumerate(names)]


def test_all_failed_jobs_can_be_retried_at_once(page):
    jobs = all_failed(page, "one", "two", "three")
    page.farm.add("a red circle", state="completed", age=300)
    page.farm.add("not wanted", state="cancelled", age=300)
    page.farm.most_retried = 2          # the page asks until there are no more
    page.open()
    page.button("Retry all failed (3)").click()
    page.says("#toasts", "Retrying 3 failed videos.")
    assert not page.asked("POST", "/retry") and not page.one("#retry-all").is_enabled()
    page.says("#toasts", "3 videos queued again.")
    assert {page.farm.jobs[job]["state"] for job in jobs} == {"queued"} and len(page.asked("POST", "/videos/retry")) == 2
    page.until(lambda: sorted(t.text for t in page.all("#grid .tile .title")) == ["a red circle", "not wanted"])
    page.until(lambda: len(waiting(page)) == 3 and not page.all("#retry-all"))


def test_retrying_all_can_be_undone(page):
    all_failed(page, "one", "two")
    page.farm.add("cancelled for good")
    page.open()
    page.button("Retry all failed (2)").click()
    page.button("Undo", "#toasts").click()
    page.until(lambda: page.one("#retry-all").is_enabled())
    page.button("Cancel", "#waiting").click()       # a later one is the clock
    page.until(lambda: page.asked("POST", "/cancel"))
    assert not page.asked("POST", "/retry")


def test_only_those_shown_are_retried(page):
    ann = all_failed(page, "one", "two", user="ann")
    ben = all_failed(page, "three", "four", user="ben")
    page.open()
    page.button("Retry all failed (4)")
    page.one("#done-person").send_keys("ann")
    page.until(lambda: not page.all("#retry-all"))      # how many of hers have failed is not known yet
    page.js("document.querySelector('[name=done-state][value=failed]').click()")
    page.button("Retry all failed (2)").click()
    page.says("#toasts", "2 videos queued again.")
    assert [page.farm.jobs[job]["state"] for job in ann + ben] == ["queued", "queued", "failed", "failed"]
    page.button("Show all").click()
    page.one("#done-search").send_keys("e")             # the bulk call cannot search
    page.until(lambda: len(page.all("#grid .tile")) == 1 and not page.all("#retry-all"))


def test_a_bulk_retry_says_what_it_could_not_do(page):
    jobs = all_failed(page, "one", "two", "three")
    page.farm.jobs[jobs[0]]["_expired"] = True
    page.open()
    page.button("Retry all failed (3)").click()
    page.says("#toasts", "2 videos queued again; the files of 1 other have expired.")
    assert page.farm.jobs[jobs[0]]["state"] == "failed"


def test_a_bulk_retry_that_is_refused_changes_nothing(page):
    page.expected.append("status of 503")
    all_failed(page, "one", "two")
    page.farm.refuse.append(("POST", "/videos/retry", 503, {"error": {
        "message": "The server is stopping.", "type": "x", "param": None, "code": "x"}}))
    page.open()
    page.button("Retry all failed (2)").click()
    page.says("#toasts", "The server is stopping.")
    page.until(lambda: page.one("#retry-all").is_enabled())
    assert len(page.all("#grid .tile")) == 2


def test_poster_plays_while_pointed_at_and_stops_after(page):
    page.farm.add("a red circle", state="completed", age=100)
    page.open()
    tile = page.one("#grid .tile")
    ActionChains(page.browser).move_to_element(tile).perform()
    page.until(lambda: page.js("return document.querySelector('.tile video')?.currentTime > 0"))
    ActionChains(page.browser).move_to_element(page.one(".brand")).perform()
    page.until(lambda: page.js("return !document.querySelector('.tile video')"))


def test_reduced_motion_leaves_posters_still(page):
    page.farm.add("a red circle", state="completed", age=100)
    page.media(prefers_reduced_motion="reduce")
    page.open()
    ActionChains(page.browser).move_to_element(page.one("#grid .tile")).perform()
    page.js("document.querySelector('.tile-link').focus()")
    assert page.js("return document.querySelector('.tile video')") is None


def test_search_and_state_narrow_the_done(page):
    page.farm.add("a red circle", state="completed", age=300)
    page.farm.add("a blue square", state="completed", age=200)
    page.farm.add("a red failure", state="failed", age=100)
    page.open()
    page.until(lambda: len(page.all("#grid .tile")) == 3)
    page.one("#done-search").send_keys("red")
    page.until(lambda: len(page.all("#grid .tile")) == 2)
    page.js("document.querySelector('[name=done-state][value=failed]').click()")
    page.until(lambda: [t.text for t in page.all("#grid .tile .title")] == ["a red failure"])
    page.one("#done-search").send_keys("xyz")
    page.says("#done-end", "No failed video says “redxyz”")


def test_done_are_narrowed_by_person(page):
    page.farm.add("a red circle", state="completed", age=300, user="ann")
    page.farm.add("a blue square", state="completed", age=200, user="ben")
    late = page.farm.add("a green box", user="ben")
    page.open()
    page.until(lambda: len(page.all("#grid .tile")) == 2)
    page.one("#done-person").send_keys("ann")
    page.until(lambda: [t.text for t in page.all("#grid .tile .title")] == ["a red circle"])
    page.farm.complete(late)                       # not hers: it does not appear
    page.one("#done-search").send_keys("blue")
    page.says("#done-end", "No finished video by ann says “blue”.")
    page.button("Show all").click()
    page.until(lambda: len(page.all("#grid .tile")) == 3)
    assert page.one("#done-person").get_attribute("value") == ""


def test_a_farm_of_one_person_has_no_person_to_choose(page):
    page.farm.add("a red circle", state="completed", age=300)
    page.open()
    page.one("#grid .tile")
    assert not page.all("#done-person")


def test_done_are_narrowed_by_day(page):
    day = 86400
    page.farm.add("of today", state="completed", age=0)
    page.farm.add("of long ago", state="completed", age=10 * day)
    page.open()
    page.until(lambda: len(page.all("#grid .tile")) == 2)
    page.js("""const long_ago = new Date(Date.now() - 864e6), field = document.querySelector('#done-day');
               field.value = [long_ago.getFullYear(), String(long_ago.getMonth() + 1).padStart(2, '0'),
                              String(long_ago.getDate()).padStart(2, '0')].join('-');
               field.dispatchEvent(new Event('change', {bubbles: true}));""")
    page.until(lambda: [t.text for t in page.all("#grid .tile .title")] == ["of long ago"])
    asked = next(q for q in map(urllib.parse.parse_qs, reversed(page.lists())) if "created_after" in q)
    assert int(asked["created_before"][0]) - int(asked["created_after"][0]) in (day, day - 3600, day + 3600)


def test_ten_thousand_jobs_keep_the_document_small_and_scrolling_smooth(page):
    for i in range(10_000):
        page.farm.add(f"number {i}", age=20_000 - i)
        job = page.farm.jobs[f"video_01jd{i + 1:022d}"]
        begun, ended = job["created_at"], job["created_at"] + 9
        job.update(state="completed", status="completed", started_at=begun, finished_at=ended, completed_at=ended)
        page.farm.listeners.clear()
    page.open()
    page.one("#grid .tile")
    short = median_frame_ms(page)
    page.js("document.documentElement.style.scrollBehavior = 'auto'")
    page.until(lambda: page.js("scrollTo(0, 1e9); return document.querySelector('#done-end').textContent")
               == "That is all: 10,000 videos.", "all pages to be fetched", patience_s=100)
    page.until(lambda: "number 0" in [t.text for t in page.all("#grid .tile .title")])
    assert page.js("return document.querySelectorAll('#grid .tile').length") < 120
    # A ratio inside one run: a busy machine slows both, work that grows with the list only the second.
    page.js("scrollTo(0, 0)")
    assert median_frame_ms(page) < 3 * short + 30


def median_frame_ms(page):
    """Of three seconds of scrolling down from where the page is."""
    return page.browser.execute_async_script("""
        const done = arguments[0], end = performance.now() + 3000, times = [];
        let last = performance.now();
        requestAnimationFrame(function step(now) {
          times.push(now - last);
          last = now;
          scrollBy(0, 400);
          now < end ? requestAnimationFrame(step) : done(times.sort((a, b) => a - b)[times.length >> 1]);
        });""")


# ---- a job's own view ----

def test_job_view_plays_steps_by_frame_and_loops(page):
    job = page.farm.add("a red circle", state="completed", age=100)
    page.open(f"/#/{job}")
    video = "document.querySelector('#job video')"
    page.until(lambda: page.js(f"return {video}?.currentTime > 0.1 && {video}.loop"))
    page.one("#job .film").send_keys(Keys.HOME)
    page.says("#job .where", "1 / 64")
    page.one("#job .film").send_keys("..,.")
    page.says("#job .where", "3 / 64")
    page.button("Loop", "#job").click()
    assert page.js(f"return {video}.loop") is False
    link = page.one("#job a[download$='.mp4']")
    assert link.get_attribute("href").endswith("/content?variant=video")


def test_job_view_shows_the_timeline_with_numbers_and_csv(page):
    job = page.farm.add("a red circle", state="completed", age=100, num_frames=161)
    page.open(f"/#/{job}")
    page.one("#job .timeline")
    rows = [[cell.text for cell in row.find_elements("css selector", "th, td")] for row in page.all("#job table tr")]
    assert rows[0] == ["Seconds", "text", "high noise", "low noise", "decode", "interpolate", "encode", "upload",
                       "assemble", "all"]
    assert [row[0] for row in rows[1:]] == ["Segment 1", "Segment 2", "Join", "Together"]
    assert rows[1][2] == "6.40" and rows[4][-1] == "44.92"
    slots = page.js("""return [...document.querySelectorAll('#job .slot')].map(s =>
        [s.style.getPropertyValue('--x'), s.style.getPropertyValue('--w')].map(parseFloat))""")
    assert len(slots) == 2 * 9 + 1 and all(0 <= x and x + w <= 100.01 for x, w in slots)
    assert page.one("#job a[download$='.csv']").get_attribute("href").endswith(f"{job}/timings?format=csv")


def test_use_again_fills_the_form_from_an_old_job(page):
    job = page.farm.add("a purple circle shrinks", state="completed", age=100, num_frames=49, seed=99, size="128x192")
    page.open(f"/#/{job}")
    page.button("Use again", "#job").click()
    page.until(lambda: page.one("#prompt").get_attribute("value") == "a purple circle shrinks")
    values = page.js("""const f = document.querySelector('#compose').elements;
                        return [f.size.value, f.frames.value, f.seed.value];""")
    assert values == ["128x192", "49", "99"]
    assert not page.all("#job")


def test_deleted_video_can_be_undone(page):
    job = page.farm.add("a red circle", state="completed", age=100)
    page.open()
    page.one("#grid .tile-link").click()
    page.button("Delete", "#job").click()
    page.until(lambda: not page.all("#grid .tile"))
    page.button("Undo", "#toasts").click()
    page.one("#grid .tile")
    assert job in page.farm.jobs and not page.asked("DELETE", ".")


def test_notes_of_the_model_are_shown(page):
    job = page.farm.add("a castle", state="completed", age=100, notes=["'castle' was not understood."])
    page.open(f"/#/{job}")
    page.says("#job .note", "'castle' was not understood.")


def test_address_of_a_video_that_is_gone_says_so(page):
    page.expected.append("status of 404")
    page.open("/#/video_01jd0000000000000000009999")
    page.says("#job", "This video does not exist (any more)")


# ---- hostile text, bad days ----

def test_prompt_with_markup_is_shown_as_text(page):
    page.expected.append("status of 404")
    page.farm.add(MARKUP, state="completed", age=50, notes=[MARKUP])
    page.farm.add(MARKUP)
    failed = page.farm.add(MARKUP, state="failed", age=60)
    page.farm.fail(failed, code="<b>", message=MARKUP)
    start(page, prompt=MARKUP)
    page.open()
    page.until(lambda: page.text("#now .title") == page.text("#grid .title") != "")
    assert "<b>bold</b>" in page.text("#now .title")
    page.open(f"/#/{failed}")
    page.says("#job .message", "<b>bold</b>")
    page.open("/#/farm")
    page.says(".worker .last-errors", "<b>bold</b>")
    made = page.js("return [...document.querySelectorAll('b, img[src=x]')].map(e => e.innerText)")
    assert "" not in made and "bold" not in made
    assert "owned" not in page.browser.title


def test_page_survives_the_loss_of_the_server(page):
    page.expected.append("Failed to load resource|ERR_")
    start(page, prompt="a red circle")
    page.farm.add("patience")
    page.open()
    page.says("#now", "a red circle")
    page.type_prompt("half a thought")
    before = page.one("#now").rect
    page.farm.down = True
    page.says("#link", "The farm is out of reach")
    page.button("Make video").click()
    page.says("#compose-error", "your text is safe here")
    assert page.one("#prompt").get_attribute("value") == "half a thought"
    assert page.text("#now .title") == "a red circle" and page.one("#now").rect["height"] == before["height"]
    page.farm.down = False
    page.js("document.querySelector('#link button').click()")    # the page's own next try may be sooner
    page.until(lambda: not page.all("#link"))
    page.button("Make video").click()
    page.says("#waiting-list", "half a thought")


@pytest.mark.parametrize("events", [True, False])
def test_page_finds_the_server_again_by_itself(page, events):
    page.expected.append("Failed to load resource|ERR_")
    page.farm.events = events
    page.open()
    page.one("#welcome")
    page.farm.down = True
    page.says("#link", "trying again")
    page.farm.down = False
    page.farm.add("made meanwhile")
    page.until(lambda: not page.all("#link"))
    page.says("#waiting-list", "made meanwhile")


def test_a_refused_click_says_so_and_changes_nothing(page):
    page.expected.append("status of 507")
    job = page.farm.add("too large", state="failed", age=100)
    page.farm.refuse.append(("POST", "/retry", 507, {"error": {
        "message": "2 GiB are left.", "type": "x", "param": None, "code": "x"}}))
    page.open()
    page.button("Retry", "#grid").click()
    page.says("#toasts", "disk is full. 2 GiB are left.")
    assert page.farm.jobs[job]["state"] == "failed" and page.all("#grid .tile")


# ---- farm ----

def test_farm_page_shows_workers_their_task_and_last_errors(page):
    scene_full(page.farm)
    page.farm.workers[1]["state"] = "lost"
    page.open("/#/farm")
    page.until(lambda: len(page.all(".worker")) == 2)
    assert "AMD EPYC 9654" in page.text("#workers") and "25 GiB" in page.text("#workers")
    page.says(".worker:nth-child(1) .last-errors", "81 frames at 832x1216 need 36.5 GiB")
    assert len(page.all(".worker:nth-child(1) .last-errors li")) == 2
    page.says(".worker:nth-child(2) .badge", "lost")
    page.says(".worker:nth-child(1) .task", "noise")
    page.says("#version", "0.1.0")
    page.button("Drain").click()
    page.says(".worker:nth-child(1) .badge", "draining")
    page.button("Take back").click()
    page.until(lambda: page.button("Drain"))


def test_farm_page_shows_workers_at_hand_first_and_a_restarted_one_once(page):
    old, other = page.farm.workers
    page.farm.workers.append({**old, "id": "worker_9", "registered_at": int(time.time())})
    old["state"], other["state"] = "left", "lost"
    page.open("/#/farm")
    page.until(lambda: [(el.text.split("\n")[0], el.get_attribute("data-state")) for el in page.all(".worker")]
               == [("attic-cpu0", "idle"), ("attic-cpu1", "lost")])
    page.farm.workers[2].update(state="left", tasks_done=7)
    page.until(lambda: [el.get_attribute("data-state") for el in page.all(".worker")] == ["lost", "left"])
    page.says(".worker:nth-child(2)", "7 tasks done")


def test_farm_page_shows_temperature_where_the_device_has_one(page):
    device = page.farm.workers[0]["device"]
    device.update(temperature_c=61.4, memory_used_bytes=5 * 2**30, utilization=0.98, power_w=412.3, told_at=int(time.time()))
    page.open("/#/farm")
    page.until(lambda: page.text(".worker:nth-child(1) .gauges").replace("\xa0", " ")
               == "5.0 GiB in use · 98 % busy · 61 °C · 412 W")
    assert "5,368,709,120 bytes" in page.one(".gauges").get_attribute("title")
    assert "°C" not in page.text(".worker:nth-child(2)")
    device["told_at"] -= 120
    page.says(".worker:nth-child(1) .gauges", "412\xa0W · 2\xa0min")
    page.farm.workers[0]["state"] = "lost"
    page.until(lambda: "°C" not in page.text(".worker:nth-child(1)"))


def test_farm_page_counts_every_hour_exactly_however_many_jobs_it_has_read(page):
    hour = int(page.farm.now()) // 3600 * 3600
    jobs = [page.farm.add(f"number {i}", state="completed", age=9000) for i in range(205)]
    for i, job in enumerate(jobs):      # 2 in this hour, 203 in the one before: more than the page reads
        page.farm.jobs[job]["finished_at"] = hour if i < 2 else hour - 1 - i
    failed = page.farm.add("too large", state="failed", age=100)
    page.farm.jobs[failed]["finished_at"] = hour - 5
    late = page.farm.add("patience")
    page.open("/#/farm")

    def titles():
        return page.js("return [...document.querySelectorAll('#hours .columns i')].map(i => i.title)")
    page.until(lambda: len(titles()) == 24)
    assert re.fullmatch(r"since .*\d\d:\d\d: 2 videos", titles()[-1]), titles()[-1]
    assert re.fullmatch(r".*\d\d:\d\d to .*\d\d:\d\d: 203 videos, 1 failed", titles()[-2]), titles()[-2]
    assert all(t.endswith(": 0 videos") for t in titles()[:-2]), titles()
    page.says("#hours figcaption", "at most 203")
    page.farm.complete(late)
    page.until(lambda: titles()[-1].endswith(": 3 videos"))


def test_farm_page_counts_the_last_hour_with_what_failed(page):
    page.farm.add("a red circle", state="completed", age=300)
    page.farm.add("too large", state="failed", age=100)
    page.farm.add("long ago", state="completed", age=5000)
    page.open("/#/farm")
    page.until(lambda: page.text("#figures div:first-child") == "1\nin the last hour")
    assert page.js("return document.querySelector('#figures div').title") == "1 failed, 0 cancelled"


def test_farm_page_shows_the_disk_and_says_when_it_is_low(page):
    page.open("/#/farm")
    page.says("#disk", "812 GB")
    assert page.one("#disk .figures div").get_attribute("title") == "812,345,678,901 bytes"
    page.farm.disk.update(low=True, free_bytes=10**9)
    page.farm.tell()
    page.says("#disk", "too little to go on")
    page.says("#pulse", "disk full")


def test_farm_figures_say_their_exact_value_when_pointed_at(page):
    scene_full(page.farm)
    page.open("/#/farm")
    page.until(lambda: page.all("#pace .columns i"))
    titles = page.js("""return [...document.querySelectorAll('#figures > div, .columns i, .share-bar i, .legend > span')]
                          .filter(el => el.checkVisibility()).map(el => el.title)""")
    assert len(titles) > 30 and all(titles), titles
    assert any(re.fullmatch(r"0\.2\d\d s", title) for title in titles), titles
    assert any(re.match(r"high noise: 28\.\d\d %, ", title) for title in titles), titles


# ---- for everyone ----

def test_everything_is_reached_by_keyboard_with_visible_focus_and_a_name(page):
    page.farm.workers = page.farm.workers[:1]
    start(page, prompt="running", priority=9)
    page.farm.add("in line")
    page.farm.add("last in line")
    page.farm.add("done", state="completed", age=100, user="ann")
    page.farm.add("broken", state="failed", age=200)
    page.farm.paused = True
    page.open()
    page.until(lambda: len(page.all("#grid .tile")) == 2 and page.all("#now") and page.all("#waiting"))
    page.js("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    seen = []
    for _ in range(70):
        page.press(Keys.TAB)
        here = page.js("""
            const e = document.activeElement;
            if (e === document.body) return null;
            const where = [e, e.nextElementSibling, e.closest('.compose, .day'), e.querySelector('.poster')].filter(Boolean);
            const shown = where.map(n => getComputedStyle(n)).some(s => s.boxShadow.includes('0px 0px 0px')
              || (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2));
            const name = e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || e.title;
            return [e.tagName.toLowerCase() + (e.id ? '#' + e.id : ''), (name || '').trim(), shown];""")
        if here is None:
            break
        seen.append(here)
    assert all(name for _, name, _ in seen), seen
    assert all(shown for _, _, shown in seen), [s for s in seen if not s[2]]
    names = [name for _, name, _ in seen]
    for wanted in ("Skip to the prompt", "Videos", "Farm", "Prompt", "Size", "Roll a seed", "More", "running", "Cancel",
                   "What this model can draw", "Resume", "Move", "in line", "Make next", "Person", "Day", "done", "Retry",
                   "Search prompts"):
        assert any(wanted in name for name in names), (wanted, names)


def test_a_video_opens_and_closes_by_keyboard_and_gives_the_focus_back(page):
    page.farm.add("done", state="completed", age=100)
    page.open()
    page.one("#grid .tile")
    page.js("document.querySelector('.tile-link').focus()")
    page.press(Keys.ENTER)
    page.one("#job .film")
    page.until(lambda: page.js("return document.querySelector('#job').contains(document.activeElement)"))
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("#job"))
    page.until(lambda: page.js("return document.activeElement.className") == "tile-link")


CONTRAST = """
const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgba(colour) {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data].map((x, i) => i < 3 ? x : x / 255);
}
const light = c => c.slice(0, 3).map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
  .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
function ground(el) {
  for (let e = el; e; e = e.parentElement) {
    const style = getComputedStyle(e), c = rgba(style.backgroundColor);
    if (style.backgroundImage !== 'none') return null;
    if (c[3] > .98) return c;
  }
  return rgba(getComputedStyle(document.documentElement).backgroundColor);
}
const bad = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let n; n = walk.nextNode();) {
  const el = n.parentElement;
  const faded = 'button:disabled, .leaving, .length, noscript';
  if (!n.data.trim() || !el.checkVisibility({opacityProperty: true}) || el.closest(faded)) continue;
  const back = ground(el), style = getComputedStyle(el);
  if (!back) continue;
  const [a, b] = [light(rgba(style.color)), light(back)].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) bad.push([ratio.toFixed(2), el.className || el.tagName, n.data.trim().slice(0, 40)]);
}
/* What a field or a mark is known by, against what lies around it: 3 to 1. */
for (const el of document.querySelectorAll('.field input, .field select, .narrow-by > *, .switch span, .icon')) {
  if (!el.checkVisibility() || el.closest('button:disabled, .leaving') || el.matches('[type=radio], [hidden]')) continue;
  const style = getComputedStyle(el), back = ground(el.parentElement);
  if (!back || style.opacity === '0') continue;
  const mark = rgba(el.matches('.icon') ? style.color : style.borderTopColor);
  const [a, b] = [light(mark), light(back)].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 3) bad.push([ratio.toFixed(2), el.tagName, el.name || el.className.baseVal || el.className]);
}
return bad;
"""


def test_text_and_fields_have_aa_contrast_in_light_and_dark(page):
    page.expected.append("status of 401")
    scene_full(page.farm)
    page.farm.paused = True
    page.farm.disk["low"] = True
    jobs = [next(j["id"] for j in page.farm.jobs.values() if j["state"] == s) for s in ("completed", "failed")]
    for scheme in ("light", "dark"):
        page.media(prefers_color_scheme=scheme)
        views = [("/", "#grid .tile"), ("/#/farm", ".worker"), *((f"/#/{j}", "#job .timeline") for j in jobs)]
        for path, ready in views:
            page.open(path)
            page.load_again()           # a hash alone loads nothing
            page.one(ready)
            if path == "/":
                page.type_prompt("a castle" + Keys.SHIFT + Keys.ENTER + Keys.NULL + "at sunrise")
                page.one("#unknown")
                page.js("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.js(CONTRAST) == [], (scheme, path)
    refusal = ("GET", "^/v1/", 401, {"error": {"message": "no", "type": "x", "param": None, "code": "x"}})
    page.farm.refuse.append(refusal)
    for scheme in ("light", "dark"):
        page.media(prefers_color_scheme=scheme)
        page.open("/")
        page.load_again()
        page.one("#token")
        assert page.js(CONTRAST) == [], (scheme, "the question for a token")


def test_phone_scrolls_in_one_direction_only(page):
    scene_full(page.farm)
    page.width(360)
    job = next(j["id"] for j in page.farm.jobs.values() if j["state"] == "completed")
    for path, ready in [("/", "#grid .tile"), ("/#/farm", ".worker"), (f"/#/{job}", "#job .timeline")]:
        page.open(path)
        page.one(ready)
        wide = page.js("""return [document.documentElement, document.querySelector('#job')].map(e => e.scrollWidth)
                            .map(width => width - innerWidth);""")
        assert max(wide) <= 0, (path, wide)
