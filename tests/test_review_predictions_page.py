"""The page of predictions in a real Chromium: two runs on a toy video, sorted, compared and drawn."""

import json
import shutil

import pytest

from ravst_ray.core.answers import ObjectAnswer, render
from tests.chromium import IN_BROWSER
from tests.review_browser import COLOURED, PHONE, WIDE, brightness, opening, overflow_px, serving

pytestmark = IN_BROWSER

HOSTILE = "a'\"><img src=x onerror=alert(1)> <script>alert(2)</script>&amp;"
ROW = 0, 85, 256, 95, 256  # of the picture, which is 256 wide; higher than a dash's gap
TRUE, WIDER = (40.0, 60.0, 120.0, 140.0), (8.0, 60.0, 168.0, 140.0)  # half of the second is the first


def where(box, name="drum"):
    return render([ObjectAnswer(name, None, ((2.0, box), (3.0, box)))])


def when(start_s, end_s, name="drum"):
    return render([ObjectAnswer(name, (start_s, end_s))])


@pytest.fixture(scope="module")
def site(world, tmp_path_factory):
    """Three questions on a toy video and on one that isn't there; one has a hostile id and hostile answers."""
    root = tmp_path_factory.mktemp("predictions")
    video = sorted(world.truth)[0]
    shutil.copytree(world.videos, root / "videos")
    questions = [
        ("box", "AVSR", where(TRUE), video),
        ("time", "AVTR", when(1.0, 3.0), video),
        (HOSTILE, "AVTR", when(0, 1), "lost"),
    ]
    answers = {
        "before": {"box": where(WIDER), "time": when(2.0, 3.0), HOSTILE: f"</pre>{HOSTILE}"},
        "after": {"box": where(TRUE), "time": when(2.5, 3.0), HOSTILE: when(0, 1, HOSTILE), "elsewhere": ""},
    }
    rows = [
        {
            "id": key,
            "video": name,
            "duration_s": 0 if name == "lost" else 8.0,
            "task": task,
            "question": f"Of {key}?",
            "answer": answer,
        }
        for key, task, answer, name in questions
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, given in answers.items():
        lines = (json.dumps({"id": key, "prediction": text}) + "\n" for key, text in given.items())
        (root / f"{name}.jsonl").write_text("".join(lines))
    files = [option for name in answers for option in ("--predictions", root / f"{name}.jsonl")]
    with serving(*files, "--annotations", root / "questions.jsonl", "--videos", root / "videos") as address:
        yield address


@pytest.fixture
def window(browser, site):
    with opening(browser, site) as open_:
        yield open_


def rows(page):
    return [
        row.split("\n")[0]
        for row in page.locator("#rows [data-id]").evaluate_all("all => all.map(one => one.dataset.id)")
    ]


def shown(page, qa_id):
    page.wait_for_function("id => document.querySelector('#head .id')?.textContent === id", arg=qa_id)


BLUE, ORANGE, PINK = (0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)


def test_two_runs_are_compared_on_the_video(window):
    page = window()
    assert rows(page) == ["time", "box", HOSTILE]  # the one that lost comes first
    shown(page, "time")
    assert page.locator("#sections button").all_inner_texts() == ["All3", "Better2", "Same0", "Worse1"]
    assert "1 answer to questions that the annotations don’t have (such as elsewhere)" in page.inner_text("#banners")
    assert page.inner_text("#means .hint") == "malformed: 1 → 0"
    cells = "all => all.map(one => [...one.cells].map(cell => cell.innerText.trim().replace(/\\s+/g, ' ')))"
    parts = page.locator("#reward tr[data-part]").evaluate_all(cells)
    assert parts[0] == ["total of 2", "1.50", "1.25", "−0.25"]
    assert ["temporal × 1", "0.50", "0.25", "−0.25"] in parts
    bars = page.evaluate("""() => [...document.querySelectorAll(".lanes .interval span")].map((one) => {
      const [bar, lane] = [one, one.parentNode].map((element) => element.getBoundingClientRect());
      return [one.title, (bar.left - lane.left) / lane.width, (bar.right - lane.left) / lane.width];
    })""")
    said = {"truth: drum, 1–3 s": (1, 3), "before: drum, 2–3 s": (2, 3), "after: drum, 2.5–3 s": (2.5, 3)}
    assert [bar[0] for bar in bars] == list(said)
    for title, *ends in bars:
        assert ends == pytest.approx([time_s / 8 for time_s in said[title]], abs=0.005)

    page.keyboard.press("n")
    shown(page, "box")
    page.wait_for_function("() => Number(stage.dataset.shown) === 2")
    page.wait_for_function(COLOURED, arg=[*ROW, *BLUE])  # how large the picture is, the file has told
    for colour, box in ((BLUE, TRUE), (ORANGE, WIDER), (PINK, TRUE)):  # dashes leave the box below them visible
        left, _, right, _ = page.evaluate(COLOURED, [*ROW, *colour])
        assert left == pytest.approx(box[0], abs=1.5) and right == pytest.approx(box[2], abs=1.5)
    page.keyboard.press("2")
    assert page.evaluate(COLOURED, [*ROW, *ORANGE]) is None and page.evaluate(COLOURED, [*ROW, *PINK])
    assert page.locator(".answer[data-side='3'] .right").inner_text() == "✓ drum"

    page.click("#means button >> text=spatial")  # by a part: only one question has it
    page.wait_for_function("() => sections.textContent.includes('Better1')")
    page.select_option("#filter-form select", "gained")
    page.wait_for_function("() => document.querySelector('#rows [data-id]')?.dataset.id.startsWith('box')")
    page.click("#sections button >> text=Better")
    page.wait_for_function("() => document.querySelectorAll('#rows [data-id]').length === 1")
    page.reload()
    page.wait_for_selector("#item:not([hidden])")
    shown(page, "box")
    assert rows(page) == ["box"]


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "dark"), (PHONE, "light")])
def test_hostile_texts_are_texts_and_a_missing_video_is_said(window, size, scheme):
    page = window("", size=size, color_scheme=scheme)
    page.evaluate("id => { location.hash = new URLSearchParams({ id }); }", HOSTILE)  # as a link in a report does
    shown(page, HOSTILE)
    page.wait_for_selector("#stage-says:not([hidden])")
    assert "lost" in page.inner_text("#stage-says")
    assert page.inner_text(".clock") == "0:00.00 / 0:01.0", "as long as anything is said of, where nothing else tells"
    page.click(".answer[data-side='2'] summary")
    assert page.inner_text(".answer[data-side='2'] pre") == f"</pre>{HOSTILE}"
    assert page.inner_text("#head h2") == f"Of {HOSTILE}?"
    assert overflow_px(page) <= 0
    assert brightness(page) < 64 if scheme == "dark" else brightness(page) > 192
