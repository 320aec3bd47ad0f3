"""The form: what is sent is what was meant, and it is said beforehand what it becomes.
SPDX-License-Identifier: Apache-2.0
"""
import json

from PIL import Image
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select


def submitted(page):
    return [json.loads(body) for body in page.asked("POST", r"^/v1/videos$")]


def set_value(page, css, value):
    field = page.one(css)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(value, Keys.TAB)


def test_page_submits_a_prompt_and_shows_it_waiting(page):
    page.open()
    page.type_prompt("a red circle moves left")
    page.button("Make video").click()
    page.says("#waiting-list", "a red circle moves left")
    assert submitted(page) == [{"prompt": "a red circle moves left", "num_frames": 81, "fps": 32, "model": "demo",
                                "size": "192x128"}]
    assert page.one("#prompt").get_attribute("value") == ""


def test_control_enter_sends(page):
    page.open()
    page.type_prompt("a blue square turns")
    page.press(Keys.CONTROL, Keys.ENTER)
    page.says("#waiting-list", "a blue square turns")


def test_every_setting_is_sent_under_its_wire_name(page):
    page.open()
    page.until(lambda: page.all("#size option[value='128x192']"))
    page.type_prompt("a white triangle rises")
    Select(page.one("#size")).select_by_value("128x192")
    set_value(page, "[name=frames]", "161")
    page.js("document.querySelector('[name=fps][value=\"16\"]').click()")
    set_value(page, "#seed", "77")
    Select(page.one("[name=priority]")).select_by_visible_text("High")
    page.button("More").click()
    for name, value in [("num_inference_steps", "8"), ("switch_step", "3"), ("flow_shift", "4.5"),
                        ("guidance_scale", "2"), ("guidance_scale_2", "3.5"), ("negative_prompt", "blur")]:
        set_value(page, f"[name={name}]", value)
    set_value(page, "[data-lora=demo_4steps]", "0.8")
    page.button("Make video").click()
    page.until(lambda: submitted(page))
    assert submitted(page) == [{
        "prompt": "a white triangle rises", "model": "demo", "size": "128x192", "num_frames": 161, "fps": 16,
        "seed": 77, "priority": 10, "num_inference_steps": 8, "switch_step": 3, "flow_shift": 4.5, "guidance_scale": 2,
        "guidance_scale_2": 3.5, "negative_prompt": "blur", "loras": [{"name": "demo_4steps", "strength": 0.8}]}]


def test_a_free_size_is_sent_as_width_and_height(page):
    page.open()
    page.until(lambda: page.all("#size option[value=free]"))
    page.type_prompt("x")
    Select(page.one("#size")).select_by_value("free")
    set_value(page, "[name=width]", "256")
    set_value(page, "[name=height]", "160")
    page.button("Make video").click()
    page.until(lambda: submitted(page))
    assert (submitted(page)[0]["width"], submitted(page)[0]["height"]) == (256, 160)
    assert "size" not in submitted(page)[0]


def test_page_says_what_a_request_becomes_before_it_is_sent(page):
    page.open()
    page.says("#becomes", "81 frames in one piece, 162 frames at 32 fps, 5.06 s")
    set_value(page, "[name=seconds]", "10")
    page.says("#becomes", "161 frames = 2 segments, 322 frames at 32 fps, 10.06 s")
    assert page.one("[name=frames]").get_attribute("value") == "161"


def test_frames_and_seconds_keep_in_step_at_four_k_plus_one(page):
    page.open()
    set_value(page, "[name=frames]", "120")
    page.until(lambda: page.one("[name=frames]").get_attribute("value") == "121")
    assert page.one("[name=seconds]").get_attribute("value") == "7.56"


def test_the_farms_estimate_joins_the_sentence_and_makes_no_job(page):
    page.open()
    page.type_prompt("a red circle grows")
    page.says("#becomes", "ready in about")
    assert not page.farm.jobs and not submitted(page)


def test_copies_differ_in_their_seeds(page):
    page.open()
    page.type_prompt("a green square")
    set_value(page, "#seed", "5")
    set_value(page, "[name=count]", "3")
    page.button("Make 3 videos").click()
    page.until(lambda: len(page.farm.jobs) == 3)
    assert sorted(job["seed"] for job in page.farm.jobs.values()) == [5, 6, 7]


def test_pasted_lines_offer_to_become_a_batch(page):
    page.open()
    page.type_prompt("one circle" + Keys.ENTER + "two squares" + Keys.ENTER + Keys.ENTER + "three")
    page.says("#batch", "3 lines, taken as one prompt")
    page.button("Make 3 videos, one per line").click()
    page.button("Make 3 videos").click()
    page.until(lambda: len(page.farm.jobs) == 3)
    assert sorted(job["prompt"] for job in page.farm.jobs.values()) == ["one circle", "three", "two squares"]
    assert len(page.asked("POST", "/v1/videos/batch")) == 1


def test_refused_lines_of_a_batch_stay_in_the_field(page):
    page.expected.append("status of 400")
    page.open()
    accept = page.farm.httpd.RequestHandlerClass.accept

    def picky(handler, fields, dry=False):
        if "bad" in fields["prompt"]:
            fields = {**fields, "num_frames": 80}
        return accept(handler, fields, dry)
    page.farm.httpd.RequestHandlerClass.accept = picky
    page.type_prompt("good" + Keys.ENTER + "bad")
    page.button("Make 2 videos, one per line").click()
    page.button("Make 2 videos").click()
    page.says("#compose-error", "1 line was refused: num_frames is 80")
    assert page.one("#prompt").get_attribute("value") == "bad"
    assert [job["prompt"] for job in page.farm.jobs.values()] == ["good"]


def test_a_refusal_names_the_field_and_keeps_the_text(page):
    page.expected.append("status of 400")
    page.farm.refuse.append(("POST", "^/v1/videos", 400, {"error": {
        "message": "seed is 9; it is taken", "type": "invalid_request_error", "param": "seed", "code": "invalid"}}))
    page.open()
    page.type_prompt("a red circle")
    page.button("Make video").click()
    page.says("#compose-error", "seed is 9; it is taken")
    assert page.one("#seed").get_attribute("aria-invalid") == "true"
    assert page.one("#prompt").get_attribute("value") == "a red circle"


def test_start_image_is_shown_and_sent_with_the_prompt(page, tmp_path):
    image = tmp_path / "start.png"
    Image.new("RGB", (64, 48), "red").save(image)
    page.open()
    page.browser.find_element("css selector", "#image-file").send_keys(str(image))
    page.until(lambda: page.js("return document.querySelector('#start-image img').naturalWidth") == 64)
    page.type_prompt("it turns")
    page.button("Make video").click()
    page.says("#waiting-list", "it turns")
    body = page.asked("POST", r"^/v1/videos$")[0]
    assert b'name="input_reference"; filename="start.png"' in body and image.read_bytes() in body
    assert b'name="num_frames"\r\n\r\n81' in body
    assert not page.all("#start-image")


def test_pasted_image_becomes_the_start_image(page):
    page.open()
    page.one("#prompt").click()
    page.js("""
        const done = new DataTransfer();
        done.items.add(new File([new Uint8Array([137, 80, 78, 71])], 'p.png', {type: 'image/png'}));
        document.activeElement.dispatchEvent(
            new ClipboardEvent('paste', {clipboardData: done, bubbles: true, cancelable: true}));
    """)
    page.one("#start-image")
    page.button("Remove the start image").click()
    page.until(lambda: not page.all("#start-image"))


def test_settings_and_unsent_prompt_survive_a_reload(page):
    page.open()
    page.type_prompt("half a thou")
    set_value(page, "[name=frames]", "49")
    set_value(page, "#seed", "123")
    page.button("Roll a seed").click()
    seed = page.until(lambda: (s := page.one("#seed").get_attribute("value")) != "123" and s)
    page.open()
    page.until(lambda: page.one("#prompt").get_attribute("value") == "half a thou")
    assert page.one("[name=frames]").get_attribute("value") == "49"
    assert page.one("#seed").get_attribute("value") == seed


def test_every_setting_survives_a_reload(page):
    page.open()
    page.until(lambda: page.all("#size option[value='128x192']"))
    page.button("More").click()
    values = {"size": "128x192", "frames": "49", "fps": "16", "seed": "123", "count": "3", "priority": "10",
              "num_inference_steps": "8", "switch_step": "3", "flow_shift": "4.5", "guidance_scale_2": "3.5",
              "guidance_scale": "2", "negative_prompt": "blur"}
    page.js("""const fields = document.querySelector('#compose').elements;
               for (const [name, value] of Object.entries(arguments[0])) fields[name].value = value;
               document.querySelector('[data-lora=demo_4steps]').value = '0.8';
               document.querySelector('#prompt').dispatchEvent(new Event('input', {bubbles: true}));""", values)
    page.load_again()
    page.until(lambda: page.all("[data-lora=demo_4steps]"))
    kept = page.js("""const fields = document.querySelector('#compose').elements;
                      return Object.fromEntries(arguments[0].map(name => [name, fields[name].value]));""", list(values))
    assert kept == values
    assert page.one("[data-lora=demo_4steps]").get_attribute("value") == "0.8"


def test_what_was_typed_stays_when_a_worker_comes(page):
    page.farm.events = False
    page.expected.append("v1/events")
    page.open()
    page.until(lambda: page.all("#size option[value='128x192']"))
    Select(page.one("#size")).select_by_value("128x192")
    page.button("More").click()
    set_value(page, "[data-lora=demo_4steps]", "0.8")
    page.farm.workers.pop()
    page.farm.model["note"] = "Knows more now."        # a model that did change is taken over
    page.js("document.querySelector('#about-model').open = true")
    page.says("#about-model", "Knows more now.")
    assert page.one("[data-lora=demo_4steps]").get_attribute("value") == "0.8"
    assert page.one("#size").get_attribute("value") == "128x192"


def test_words_that_the_model_does_not_know_are_named_kindly(page):
    page.farm.model.update(title="Fruit", vocabulary=["apple", "falls"])
    page.open()
    page.type_prompt("An apple falls from the castle, a CASTLE at sunrise")
    page.says("#unknown", "This model does not know “castle” and “sunrise”. You get a video all the same")
    page.one("#prompt").clear()
    page.type_prompt("the apple falls")
    page.until(lambda: not page.all("#unknown"))
    page.button("Make video").click()
    page.says("#waiting-list", "the apple falls")


def test_a_model_without_a_vocabulary_knows_every_word(page):
    page.farm.model.update(vocabulary=[], note="", title="Wan")
    page.open()
    page.type_prompt("a castle at sunrise")
    page.says("#becomes", "ready in")
    assert not page.all("#unknown")


def test_page_states_what_the_model_can_draw(page):
    page.farm.model.update(title="Fruit", vocabulary=["apple", "falls"], note="It knows fruit.", examples=["an apple"])
    page.open()
    page.button("What this model can draw").click()
    for words in ("Fruit. It knows fruit.", "192×128", "81 frames in one piece", "“an apple”", "2 words: apple, falls"):
        page.says("#about-model", words)


def test_empty_farm_teaches_the_first_step(page):
    page.open()
    page.says("#welcome", "Make the first one")
    examples = page.all("#welcome .example")
    assert len(examples) == 3
    words = examples[1].text
    examples[1].click()
    assert page.one("#prompt").get_attribute("value") == words
    page.press(Keys.CONTROL, Keys.ENTER)
    page.says("#waiting-list", words)
    assert not page.all("#welcome")
