"""Does every press say what the person meant, of the pair that was in sight?"""

from __future__ import annotations

import pytest
from mapo_studio.tests.web.judging_server import ONE, JudgingServer
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

# A frame has been painted, and the script that waits for it has run.
SETTLE = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => setTimeout(done))))"
# What chromium itself writes into the console where a server says no.
FAILED_REQUEST = "Failed to load resource"
TWO = """<input id="name"><textarea id="text"></textarea><div id="box"></div>
<mapo-judge id="one" api="/api" dataset="cats" style="height: 45dvh"></mapo-judge>
<mapo-judge id="two" api="/api" dataset="dogs" style="height: 45dvh"></mapo-judge>"""


def visible(page: Page, which: str = "mapo-judge") -> int:
    """The number of the pair (or group) in sight."""
    page.locator(f"{which} img").first.wait_for()
    page.evaluate(SETTLE)
    return int(page.locator(f"{which} .prompt p").first.inner_text().rpartition(" ")[2])


def opened(page: Page, server: JudgingServer, body: str | None = None) -> int:
    server.body = body or server.body
    page.goto(server.url)
    return visible(page)


def arrived(page: Page, server: JudgingServer, count: int, kind: str = "answers") -> list[dict]:
    """Waits until the server holds so many, and checks that it is not more."""
    for _ in range(100):
        if len(getattr(server, kind)) >= count:
            break
        page.wait_for_timeout(50)
    assert len(getattr(server, kind)) == count
    return getattr(server, kind)


@pytest.mark.parametrize(
    ("key", "answer", "strength"),
    [
        ("ArrowLeft", "left", "slightly"),
        ("ArrowRight", "right", "slightly"),
        ("1", "left", "slightly"),
        ("2", "right", "slightly"),
        ("Shift+ArrowLeft", "left", "clearly"),
        ("Shift+ArrowRight", "right", "clearly"),
        ("Shift+Digit1", "left", "clearly"),
        ("Shift+Digit2", "right", "clearly"),
        ("ArrowDown", "tie", "clearly"),
        ("x", "both_bad", "clearly"),
        ("Shift+X", "both_bad", "clearly"),
        ("Space", "skip", "clearly"),
    ],
)
def test_a_key_says_its_answer_of_the_pair_in_sight(page: Page, server: JudgingServer, key, answer, strength):
    assert opened(page, server) == 1
    page.keyboard.press(key)
    assert visible(page) == 2
    [said] = arrived(page, server, 1)
    assert (said["pair"], said["left"], said["answer"], said["strength"]) == (1, "0001b", answer, strength)
    assert said["purpose"] == "judge"
    assert 0 <= said["seconds"] < 60


@pytest.mark.parametrize("key", ["Control+ArrowLeft", "Alt+ArrowLeft", "Meta+x", "q", "4", "Enter", "Escape"])
def test_other_keys_say_nothing(page: Page, server: JudgingServer, key):
    opened(page, server)
    # The browser's own meaning of such a key must not end the page.
    page.evaluate("addEventListener('keydown', (event) => event.preventDefault())")
    page.keyboard.press(key)
    page.wait_for_timeout(100)
    assert visible(page) == 1


def test_a_held_key_answers_once(page: Page, server: JudgingServer):
    opened(page, server)
    page.keyboard.down("ArrowLeft")
    for _ in range(5):
        page.wait_for_timeout(40)
        page.keyboard.down("ArrowLeft")
    page.keyboard.up("ArrowLeft")
    assert visible(page) == 2
    arrived(page, server, 1)


def test_typing_does_not_judge(page: Page, server: JudgingServer):
    opened(page, server, TWO)
    page.evaluate(
        """() => {
          const root = document.querySelector('#box').attachShadow({ mode: 'open' });
          root.innerHTML = '<p contenteditable>here</p>';
        }"""
    )
    for field in ("#name", "#text", "#box p"):
        page.click(field)
        for key in ("x", "z", "1", "ArrowLeft", "Space"):
            page.keyboard.press(key)
    assert sorted(page.input_value("#name")) == sorted(page.input_value("#text")) == [" ", "1", "x", "z"]
    page.wait_for_timeout(400)
    assert server.answers == []
    assert (visible(page, "#one"), visible(page, "#two")) == (1, 1)
    # A click beside the pictures takes the focus out of the field.
    page.click("#one .bottom", position={"x": 400, "y": 5})
    page.keyboard.press("x")
    assert visible(page, "#one") == 2


def test_a_control_that_was_clicked_elsewhere_does_not_keep_the_keys(page: Page, server: JudgingServer):
    controls = "<button>Tab</button><input type='radio' name='r'><input type='radio' name='r'><input type='checkbox'>"
    number = opened(page, server, controls + server.body)
    for control in ("button", "input >> nth=0", "input >> nth=2"):
        page.click(control)
        for key in ("Space", "ArrowRight", "Space"):
            page.keyboard.press(key)
            number += 1
            assert visible(page) == number
    assert page.locator("input >> nth=1").is_checked() is False
    # Who walks there by Tab means the control.
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("input >> nth=1").is_checked() is True
    assert visible(page) == number


def test_a_tab_that_was_clicked_to_make_the_element_does_not_keep_the_arrows(page: Page, server: JudgingServer):
    server.body = "<button role='tab'>Judge</button><main></main>"
    page.goto(server.url)
    page.click("button")
    page.evaluate("html => { document.querySelector('main').innerHTML = html }", ONE)
    assert visible(page) == 1
    page.keyboard.press("ArrowRight")
    assert visible(page) == 2


def test_the_element_that_was_used_last_takes_the_keys(page: Page, server: JudgingServer):
    opened(page, server, TWO)
    visible(page, "#two")
    page.keyboard.press("x")
    assert (visible(page, "#one"), visible(page, "#two")) == (2, 1)
    page.click("#two .foot")
    page.keyboard.press("x")
    assert (visible(page, "#one"), visible(page, "#two")) == (2, 2)
    page.evaluate("document.querySelector('#two').style.display = 'none'")
    page.keyboard.press("x")
    assert visible(page, "#one") == 3
    page.evaluate("document.querySelector('#one').remove()")
    page.keyboard.press("x")
    arrived(page, server, 3)


def test_a_dialog_in_front_takes_the_keys(page: Page, server: JudgingServer):
    opened(page, server, server.body + "<dialog>Sure? <button>Yes</button></dialog>")
    page.evaluate("document.querySelector('dialog').showModal()")
    page.keyboard.press("x")
    page.wait_for_timeout(100)
    assert visible(page) == 1


def test_keys_inside_need_the_pointer_or_the_focus_inside(page: Page, server: JudgingServer):
    opened(page, server, '<p id="p">outside</p>' + server.body.replace("dataset", 'keys="inside" dataset'))
    page.hover("#p")
    page.keyboard.press("x")
    page.wait_for_timeout(100)
    assert visible(page) == 1
    page.hover("mapo-judge")
    page.keyboard.press("x")
    assert visible(page) == 2


def test_a_click_says_better_and_the_second_button_clearly(page: Page, server: JudgingServer):
    opened(page, server)
    left, right = page.locator(".picture").nth(0), page.locator(".picture").nth(1)
    for act in (left.click, right.click, lambda: left.click(button="right")):
        page.wait_for_timeout(250)
        act()
        page.evaluate(SETTLE)
    page.wait_for_timeout(250)
    right.click(modifiers=["Shift"])
    said = arrived(page, server, 4)
    assert [(one["pair"], one["answer"], one["strength"]) for one in said] == [
        (1, "left", "slightly"),
        (2, "right", "slightly"),
        (3, "left", "clearly"),
        (4, "right", "clearly"),
    ]


def test_the_second_half_of_a_double_click_is_not_an_answer(page: Page, server: JudgingServer):
    opened(page, server)
    page.wait_for_timeout(250)
    page.locator(".picture").first.dblclick()
    assert visible(page) == 2
    arrived(page, server, 1)


def test_fingers_tap_and_press_long(browser, server: JudgingServer):
    context = browser.new_context(viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True)
    page = context.new_page()
    opened(page, server)
    page.wait_for_timeout(250)
    page.locator(".picture").nth(1).tap()
    assert visible(page) == 2
    page.wait_for_timeout(250)
    box = page.locator(".picture").first.bounding_box()
    touch = context.new_cdp_session(page)
    point = {"x": box["x"] + 50, "y": box["y"] + 50}
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    page.wait_for_timeout(700)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert visible(page) == 3
    said = arrived(page, server, 2)
    assert [(one["answer"], one["strength"]) for one in said] == [("right", "slightly"), ("left", "clearly")]
    buttons = page.locator(".legend button")
    assert all(buttons.nth(index).bounding_box()["height"] >= 44 for index in range(buttons.count()))
    context.close()


def test_every_button_of_the_legend_has_a_name_and_answers(page: Page, server: JudgingServer):
    opened(page, server)
    for name in ("Left picture is clearly better", "Tie", "Both are bad", "Right picture is better"):
        page.get_by_role("button", name=name, exact=True).last.click()
        page.evaluate(SETTLE)
    said = arrived(page, server, 4)
    assert [one["answer"] for one in said] == ["left", "tie", "both_bad", "right"]
    # A button that was clicked does not keep the space bar.
    page.keyboard.press("Space")
    assert arrived(page, server, 5)[-1]["answer"] == "skip"
    # One that was walked to by Tab does: it is pressed.
    page.get_by_role("button", name="Tie", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert arrived(page, server, 6)[-1]["answer"] == "both_bad"
    expect(page.locator("[aria-live=polite]")).to_have_text("Both bad")


def test_both_pictures_have_one_size_and_say_nothing_of_their_origin(page: Page, server: JudgingServer):
    server.size = (96, 64)
    opened(page, server)
    left, right = [page.locator(".picture").nth(side).bounding_box() for side in (0, 1)]
    assert (left["width"], left["height"]) == (right["width"], right["height"])
    assert left["width"] / left["height"] == pytest.approx(1.5, abs=0.01)
    # Nothing of the width is wasted but the margins.
    assert left["width"] + right["width"] > 1280 - 40
    assert page.locator("img").first.get_attribute("alt") == "left picture"
    shown = page.evaluate("document.querySelector('mapo-judge').shadowRoot.innerHTML")
    assert "0001" not in shown


def test_narrow_layouts_stack_the_pictures(page: Page, server: JudgingServer):
    page.set_viewport_size({"width": 350, "height": 700})
    opened(page, server)
    left, right = [page.locator(".picture").nth(side).bounding_box() for side in (0, 1)]
    assert right["y"] >= left["y"] + left["height"]
    assert left["width"] == right["width"] > 200
    assert page.evaluate("document.documentElement.scrollWidth") == 350
    foot = page.locator(".foot").bounding_box()
    assert foot["y"] + foot["height"] <= 700


def test_a_prompt_is_only_text(page: Page, server: JudgingServer):
    server.prompt = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> {}"
    assert opened(page, server) == 1
    assert page.locator(".prompt p").inner_text().startswith("<img src=x")
    assert page.locator(".prompt img").count() == 0
    page.wait_for_timeout(100)
    assert page.title() == ""


def test_a_long_prompt_opens_without_moving_the_pictures(page: Page, server: JudgingServer):
    server.prompt = "very long words about light " * 60 + "{}"
    opened(page, server)
    before = page.locator(".picture").first.bounding_box()
    page.click("text=more")
    assert page.locator(".prompt p").bounding_box()["height"] > 80
    assert page.locator(".picture").first.bounding_box() == before
    page.click("text=less")
    assert page.locator(".prompt p").bounding_box()["height"] < 60


def test_zoom_and_pan_move_both_pictures_alike(page: Page, server: JudgingServer):
    opened(page, server)
    shown = """() => {
      const images = document.querySelector('mapo-judge').shadowRoot.querySelectorAll('img');
      return [...images].map((image) => getComputedStyle(image).transform);
    }"""
    page.keyboard.press("+")
    page.keyboard.press("Shift+Equal")
    left, right = page.evaluate(shown)
    assert left == right == "matrix(2.25, 0, 0, 2.25, 0, 0)"
    box = page.locator(".picture").nth(1).bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 170, steps=4)
    page.mouse.up()
    left, right = page.evaluate(shown)
    assert left == right == "matrix(2.25, 0, 0, 2.25, 60, -30)"
    page.keyboard.press("Escape")
    assert page.evaluate(shown)[0] == "matrix(1, 0, 0, 1, 0, 0)"
    page.mouse.wheel(0, -100)
    assert page.evaluate(shown)[0].startswith("matrix(1.5, 0, 0, 1.5")
    page.keyboard.press("0")
    assert visible(page) == 1
    assert server.answers == []


def test_flip_shows_one_in_the_place_of_the_other(page: Page, server: JudgingServer):
    opened(page, server)
    pictures = page.locator(".picture")
    page.keyboard.press("f")
    place = pictures.nth(0).bounding_box()
    expect(pictures.nth(1)).to_be_hidden()
    page.keyboard.press("f")
    expect(pictures.nth(0)).to_be_hidden()
    assert pictures.nth(1).bounding_box() == place
    # Held for a glance, it goes back when it is let go.
    page.keyboard.down("f")
    expect(pictures.nth(1)).to_be_hidden()
    page.wait_for_timeout(400)
    page.keyboard.up("f")
    expect(pictures.nth(0)).to_be_hidden()
    page.keyboard.press("ArrowRight")
    assert visible(page) == 2
    expect(pictures.nth(0)).to_be_visible()
    assert arrived(page, server, 1)[0]["answer"] == "right"


def test_attributes_may_change_and_the_element_may_move(page: Page, server: JudgingServer):
    opened(page, server)
    page.keyboard.press("ArrowLeft")
    visible(page)
    page.evaluate("document.querySelector('mapo-judge').setAttribute('view', 'rank')")
    expect(page.locator(".picture")).to_have_count(4)
    page.evaluate(
        """() => {
          const judge = document.querySelector('mapo-judge');
          judge.setAttribute('view', 'pairs');
          judge.setAttribute('order', 'useful');
          judge.remove();
          document.body.append(document.createElement('main'));
          document.querySelector('main').append(judge);
        }"""
    )
    expect(page.locator(".picture")).to_have_count(2)
    assert visible(page) == 2
    page.keyboard.press("ArrowLeft")
    assert [one["pair"] for one in arrived(page, server, 2)] == [1, 2]


def test_nothing_to_judge_says_so_until_there_is(page: Page, server: JudgingServer):
    server.pairs = 0
    server.body = '<mapo-judge api="/api" dataset="cats"><b slot="empty">Paint some more.</b></mapo-judge>'
    page.goto(server.url)
    expect(page.get_by_text("Paint some more.")).to_be_visible()
    page.keyboard.press("x")
    server.pairs = 2
    assert visible(page) == 1
    page.keyboard.press("x")
    visible(page)
    page.keyboard.press("x")
    expect(page.get_by_text("Paint some more.")).to_be_visible()
    page.keyboard.press("z")
    assert visible(page) == 2


def test_a_dataset_that_is_not_there_is_said_and_tried_again(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    server.body = '<mapo-judge api="/api" dataset="nowhere"></mapo-judge>'
    page.goto(server.url)
    expect(page.get_by_text("There is no dataset nowhere.")).to_be_visible()
    page.evaluate("document.querySelector('mapo-judge').setAttribute('dataset', 'cats')")
    assert visible(page) == 1


def test_a_pair_without_its_picture_is_left_out(page: Page, server: JudgingServer):
    page.tolerated = FAILED_REQUEST
    server.missing = {"0001a", "0003b"}
    assert opened(page, server) == 2
    page.keyboard.press("x")
    assert visible(page) == 4
