"""The report and the page of a study in a browser, without a network, looked at and clicked on."""

import shutil
from itertools import pairwise

import pandas as pd
import pytest
from conftest import quick_study
from playwright.sync_api import sync_playwright

from vitals.study import Study

MEGABYTE = 1e6
PATIENCE = 180_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    assert chromium, "the tests need a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        # in a container there is no sandbox to be had
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A file opened in the browser, with all that it complained of and asked for."""

    def __init__(self, browser, file):
        self.complaints, self.requests = [], []
        self.context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def hear(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def texts(self, selector):
        return self.page.locator(selector).all_inner_texts()


@pytest.fixture(scope="module")
def results(finished):
    return finished.folder / "artifacts" / "quick"


@pytest.fixture
def opened(browser, results):
    found = Opened(browser, results / "index.html")
    found.page.wait_for_selector("#curve .main-svg")
    yield found
    assert found.complaints == []
    elsewhere = [url for url in found.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert elsewhere == []
    found.context.close()


@pytest.fixture(scope="module")
def summary(results):
    return pd.read_csv(results / "summary.csv", keep_default_na=False, dtype=str)


def test_the_page_is_one_small_file(results):
    assert (results / "index.html").stat().st_size < 10 * MEGABYTE


def test_a_curve_is_that_of_the_summary(opened, summary):
    opened.page.select_option("#metric", "probes")
    opened.page.select_option("#variable", "accuracy")
    opened.page.select_option("#feature", "patch_mean")
    opened.page.select_option("#layer", "block.1")
    chosen = {"variable": "accuracy", "feature": "patch_mean", "model": "vit_depth4"}
    rows = summary[(summary[list(chosen)] == pd.Series(chosen)).all(axis=1)]
    rows = rows[rows["layer"] != "norm"]
    drawn = opened.page.evaluate(
        "document.getElementById('curve').data"
        ".find((trace) => trace.name === 'vit_depth4' && trace.mode === 'lines+markers').y"
    )
    assert drawn == pytest.approx(rows["value"].astype(float).tolist(), rel=1e-5)
    told = float(opened.page.locator("#curve-values tr:nth-child(2) td").nth(1).inner_text())
    (there,) = rows.loc[rows["layer"] == "block.1", "value"].astype(float)
    assert told == pytest.approx(there, rel=1e-4)


def test_a_model_that_is_not_chosen_is_not_drawn(opened):
    def drawn():
        return opened.page.evaluate("document.getElementById('curve').data.map((t) => t.name)")

    assert {"vit_depth3", "vit_depth4"} <= set(drawn())
    opened.page.uncheck("#models input[value=vit_depth3]")
    assert "vit_depth3" not in drawn() and "vit_depth4" in drawn()
    assert opened.texts("#curve-values th") == ["vit_depth4"]


def test_an_image_has_its_picture_its_patches_and_its_attention(opened):
    page = opened.page
    page.select_option("#image-model", "vit_depth4")
    page.select_option("#image-layer", "block.2")
    assert page.evaluate("document.getElementById('picture').naturalWidth") == 8
    before = page.locator("#picture").get_attribute("src")
    first = page.input_value("#image")
    page.click("#next-image")
    assert page.input_value("#image") != first
    assert page.locator("#picture").get_attribute("src") != before
    for number in range(3):
        z = page.evaluate(f"document.getElementById('quantity-{number}').data[0].z")
        assert [len(row) for row in z] == [4] * 4
    heads = page.evaluate("document.getElementById('attention').data.length")
    assert heads == 2
    page.select_option("#head", "1")
    z = page.evaluate("document.getElementById('attention').data[0].z")
    assert 0.5 < sum(map(sum, z)) <= 1.01  # what is left of a row of attention is that to [CLS]
    page.select_option("#image-layer", "embed")
    assert "choose a block" in page.inner_text("#attention-note")


def test_findings_are_filtered_by_their_verdict(opened, results):
    findings = pd.read_csv(results / "findings.csv")
    assert len(opened.texts("#statements article")) == findings["statement"].nunique()
    opened.page.select_option("#verdict", "supported")
    expected = findings[findings["verdict"] == "supported"]["statement"].nunique()
    assert len(opened.texts("#statements article")) == expected
    assert opened.texts("#findings-said") == [
        f"{expected} of {findings['statement'].nunique()} statements"
    ]


def test_the_table_is_searched_sorted_and_paged(opened, summary):
    page = opened.page
    page.fill("#search", "cls_inflow_head")
    found = summary[summary["variable"].str.contains("cls_inflow_head")]
    assert opened.texts("#numbers-said") == [f"rows 1 to {len(found)} of {len(found)}"]
    head = page.locator("#summary th", has_text="value")
    for order, ascending in (("ascending", True), ("descending", False)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        texts = opened.texts("#summary tbody tr td:nth-child(8)")
        values = [float(text.replace("\N{MINUS SIGN}", "-")) for text in texts]
        assert values == sorted(values, reverse=not ascending)
    page.fill("#search", "")
    page.click("#next-rows")
    assert opened.texts("#numbers-said") == [f"rows 51 to 100 of {len(summary)}"]
    page.fill("#search", "no such thing")
    assert opened.texts("#numbers-said") == ["no row is like that"]


def test_it_says_which_settings_and_versions_made_it(opened):
    settings = dict(zip(opened.texts("#settings th"), opened.texts("#settings td"), strict=True))
    assert settings["models.vit_depth3.options.depth"] == "3"
    assert settings["metrics.probes.penalties"] == "[0.01,1]"
    assert "torch" in opened.texts("#versions th")


def test_it_is_used_by_keyboard_and_read_by_name(opened):
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the contents"
    page.focus("#metric")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#metric") != "similarity"
    page.focus("#previous-image")
    shown = page.input_value("#image")
    page.keyboard.press("Enter")
    assert page.input_value("#image") != shown
    unnamed = page.evaluate(
        "[...document.querySelectorAll('select, input, button, [role=img], [role=region]')]"
        ".filter((e) => !(e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby')"
        " || e.textContent.trim())).map((e) => e.id)"
    )
    assert unnamed == []
    assert page.get_by_role("img", name="over relative depth").count() == 1
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1])")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    process = finished.run(quick_study(), "--report", file)
    assert process.returncode == 0, process.stdout
    return file


def test_the_report_shows_figures_captions_graph_and_run_times(browser, report, results):
    opened = Opened(browser, report)
    page = opened.page
    page.get_by_text("What it shows of the paper").wait_for()
    page.locator(".marks").first.wait_for(state="attached")  # the graph of the workflow
    page.get_by_text("Figures", exact=True).click()
    assert set(Study(quick_study()).figures) <= {
        name.strip() for name in opened.texts("tbody tr td:first-child")
    }
    row = page.locator("tbody tr", has_text="similarity").first
    row.locator("a[iconname=eye]").click()
    page.wait_for_function("[...document.images].some((image) => image.naturalWidth > 400)")
    row.locator("a[iconname=information-circle]").click()
    caption = (results / "captions" / "similarity.rst").read_text()
    number = caption.split("centred cosine at embed ")[1].split(" ")[0]
    page.get_by_text(number).first.wait_for()
    page.reload()
    page.get_by_text("Statistics").first.click()
    page.locator(".marks").nth(1).wait_for(state="attached")  # run times, and when they ended
    assert opened.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests)
    opened.context.close()
