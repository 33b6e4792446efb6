"""The page's main flow in headless Chromium, with a tiny model; skipped where there is no Chromium.

`CLARA_SCREENSHOTS` names a folder that gets pictures of it at two widths, light and dark.
"""

import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import make_model

pytest.importorskip("gradio")
pytest.importorskip("selenium")
from clara.hub.space import app  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Debian's chromium and chromium-driver"),
]
FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"]
FLAGS += ["disable-background-networking", "disable-component-update", "disable-sync"]
EVIL = '<script>document.title = "taken"</script><img src=x onerror="document.title = \'taken\'">'
TEXT = f"The Forth Bridge was opened in 1890.\n\nTitan was found in 1655. {EVIL} ${{value}} {{{{value}}}}"


@pytest.fixture(scope="module")
def url(base, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    blocks = app.build(app.Page(make_model(base, doc_max_length=160), trained=False, cache=str(cache)))
    _, address, _ = app.launch(blocks, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield address
    blocks.close()


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"user-data-dir={tmp_path / 'profile'}", "window-size=1280,1600"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


class Visit:
    """One visitor's doings."""

    def __init__(self, browser, url, width=1280, dark=False):
        self.browser, self.wait = browser, WebDriverWait(browser, 120)
        phone = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        browser.get(f"{url}?__theme={'dark' if dark else 'light'}")
        self.wait.until(lambda _: self.all("#compress"))

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector).text

    def compress(self, text=TEXT):
        self.browser.find_element(By.CSS_SELECTOR, "#paste textarea").send_keys(text)
        self.click("#compress")
        self.wait.until(lambda _: "ready to be asked" in self.text("#status"))

    def look_inside(self):
        self.click("#inside button")
        self.wait.until(lambda _: any(button.is_displayed() for button in self.all("#look")))
        self.click("#look")

    def click(self, selector):
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def ask(self, question="When was it opened?"):
        field = self.browser.find_element(By.CSS_SELECTOR, "#question textarea, #question input")
        field.send_keys(question + Keys.ENTER)
        self.wait.until(lambda _: self.all("#answer [aria-busy=false]"))


def test_documents_question_answer_and_a_look_inside(browser, url):
    visit = Visit(browser, url)
    visit.compress()
    assert "1 document (" in visit.text("#status") and "tokens of text →" in visit.text("#status")
    visit.ask()
    assert visit.all("#passages li") and visit.all("#passages mark")
    assert [bar.get_attribute("aria-label") for bar in visit.all("#answer .clara-bars")]
    visit.look_inside()
    visit.wait.until(lambda _: visit.all("#seen tr"))
    visit.click("#say")
    visit.wait.until(lambda _: visit.all("#said details"))
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


def test_the_sample_and_a_question_by_two_clicks(browser, url):
    visit = Visit(browser, url)
    assert not visit.all("#chips button")
    visit.click("#sample")
    visit.wait.until(lambda _: "ready to be asked" in visit.text("#status"))
    visit.wait.until(lambda _: visit.all("#chips button"))
    chip = visit.all("#chips button")[1]
    question = chip.text
    chip.click()
    visit.wait.until(lambda _: visit.all("#answer [aria-busy=false]"))
    field = browser.find_element(By.CSS_SELECTOR, "#question textarea, #question input")
    assert field.get_attribute("value") == question and len(visit.all("#passages li")) == 5


def test_a_phone_has_one_column(browser, url):
    visit = Visit(browser, url, width=390)
    boxes = [
        visit.all(name)[0].rect for name in ("#files", "#paste", "#question", "#k", "#answer", "#passages")
    ]
    assert all(box["width"] > 250 for box in boxes)
    assert all(a["y"] + a["height"] <= b["y"] + 1 for a, b in zip(boxes, boxes[1:], strict=False))


def test_html_in_documents_stays_text(browser, url):
    visit = Visit(browser, url)
    visit.compress()
    visit.ask(f"Titan? {EVIL}")
    for summary in visit.all("#passages summary"):
        summary.click()
    assert EVIL in visit.text("#passages") and "${value} {{value}}" in visit.text("#passages")
    time.sleep(0.5)
    assert browser.title != "taken" and not visit.all("#passages img, #passages script")


def test_a_file_is_uploaded_and_an_error_is_told(browser, url, tmp_path):
    visit = Visit(browser, url)
    good, bad = tmp_path / "moon.md", tmp_path / "bad.jsonl"
    good.write_text("# Titan\n\nA moon of Saturn.")
    bad.write_text('{"words": 1}')
    for file, told in ((bad, "bad.jsonl:1"), (good, "1 document (1 passage)")):
        visit.browser.find_element(By.CSS_SELECTOR, "#files input[type=file]").send_keys(str(file))
        visit.wait.until(lambda _, name=file.name: name.split(".")[0] in visit.text("#files"))
        visit.click("#compress")
        visit.wait.until(lambda _, words=told: words in visit.text("#status"))
        visit.wait.until(lambda _: visit.all("#files input[type=file]"))


def test_asking_first_is_answered_kindly(browser, url):
    visit = Visit(browser, url)
    visit.browser.find_element(By.CSS_SELECTOR, "#question textarea, #question input").send_keys(
        "Who?" + Keys.ENTER
    )
    visit.wait.until(lambda _: "compress some documents first" in visit.text("#answer"))


def test_the_keyboard_reaches_everything_in_order(browser, url):
    order = ["files", "paste", "compress", "sample", "question", "k", "ask", "inside"]
    visit, reached = Visit(browser, url), []
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        found = browser.execute_script(
            "let e = document.activeElement; while (e && !arguments[0].includes(e.id)) e = e.parentElement;"
            "return e ? e.id : ''",
            order,
        )
        reached += [found] if found and found not in reached else []
    assert reached == order
    assert visit.all("#paste textarea")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_at_any_width_and_nothing_is_fetched_elsewhere(browser, url, width, dark):
    visit = Visit(browser, url, width, dark)
    visit.compress()
    visit.ask()
    visit.look_inside()
    visit.wait.until(lambda _: visit.all("#seen tr"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert not [name for name in fetched if not name.startswith((url.rstrip("/"), "data:", "blob:"))]
    folder = os.environ.get("CLARA_SCREENSHOTS")
    if folder:
        height = browser.execute_script("return document.documentElement.scrollHeight")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        time.sleep(1)
        name = f"page-{width}-{'dark' if dark else 'light'}.png"
        browser.save_screenshot(str(Path(folder) / name))


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_their_ground(browser, url, dark):
    visit = Visit(browser, url, dark=dark)
    visit.compress()
    visit.ask()
    script = (Path(__file__).parent / "contrast.js").read_text()
    selectors = [
        ".clara-head p",
        ".clara-step",
        "#status div",
        "#answer > *",
        "#passages summary",
        "#compress",
    ]
    for selector in selectors:
        assert browser.execute_script(script, selector) >= 4.5, selector
