"""What holds for every page that is written: what a browser lets it do, and that no name gets out of its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter

import pytest

from ravst_ray.config.rewards import EvaluateConfig, NamesConfig
from ravst_ray.evaluation.benchmarks import BENCHMARKS
from ravst_ray.evaluation.benchmarks.run import evaluate_benchmark
from ravst_ray.evaluation.evaluate import evaluate
from ravst_ray.records import Event, EventAnnotation, QAPair, SceneObject, Track
from ravst_ray.reports.annotation_report import ReportEvent, SampleVideo, render_annotation_report
from ravst_ray.reports.curves import Tick
from ravst_ray.reports.page import style_sheet
from ravst_ray.reports.plots import Box, Key, distribution, grouped_bars, interval_rows
from ravst_ray.reports.str_report import render_str_report
from ravst_ray.reports.training_report import write_training_report
from tests.benchmark_files import sti_row, write_answers, write_rows
from tests.chromium import in_browser, launch
from tests.test_metrics import TEMPORAL_Q, entry, question, when
from tests.test_report import Page
from tests.test_training_report import completion, group, reward, write_run

EVIL = "\"'><script>alert(1)</script><img src=http://x onerror=y></svg></style>{{ 7*7 }}\u202e\x01"
SHOWN = EVIL.replace("\u202e", "\ufffd").replace("\x01", "\ufffd")
VOID = {"meta", "img", "br", "hr", "link", "base", "input", "source"}


class Tree(Page):
    """A page whose elements know what they lie in: ``(tag, attributes, classes of all around it)``."""

    def __init__(self, html: str):
        self.around: list[tuple[str, set[str]]] = []
        self.placed: list[tuple[str, dict, set[str]]] = []
        self.styles: list[str] = []
        super().__init__(html)
        assert not self.around, "every element is closed"

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        self.placed.append((tag, dict(attrs), set().union(*(classes for _, classes in self.around))))
        if tag not in VOID:
            self.around.append((tag, set((dict(attrs).get("class") or "").split())))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.around and self.around[-1][0] == tag, f"</{tag}> closes {self.around[-1:]}"
        self.around.pop()

    def handle_data(self, data):
        super().handle_data(data)
        if self.around and self.around[-1][0] == "style":
            self.styles.append(data)


def annotation(root):
    track = Track(1, EVIL, True, (0.0, 1.0), ((1.0, 2.0, 9.0, 9.0),) * 2, (0.9,) * 2)
    event = EventAnnotation(
        Event(1, 0.0, 2.0, EVIL), (SceneObject(EVIL, True),), (0.0, 1.0), (track,), "suspect", (EVIL,)
    )
    pair = QAPair(f"{EVIL}/1/AVTR/0", EVIL, 1, "AVTR", EVIL, EVIL)
    video = SampleVideo(EVIL, str(root / "none.mp4"), 4.0, 16, 9, (event,), (pair,))
    counts = {name: {EVIL: 1} for name in ("errors", "drops", "seconds_per_stage", "questions_left_out")}
    summary = {**counts, "split": {EVIL: {"videos": 1}}, "toy_accuracy": {EVIL: {EVIL: {EVIL: {"value": 1.0}}}}}
    counted = ReportEvent(EVIL, 4.0, 1, EVIL, 0.0, 2.0, (EVIL,), (True,), "suspect", (EVIL,))
    return render_annotation_report(summary, [counted], [video])


def training(root):
    pair = QAPair(EVIL, "gone", 1, "AVTR", EVIL, "")
    said = [(completion(EVIL), reward(total, {EVIL: 1}, **{EVIL: 1.0})) for total in (1.0, 0.0)]
    return write_training_report(write_run(root, [[group(pair, *said)]])).read_text(encoding="utf-8")


def video_str(root):
    node = {"id": f"{EVIL}.0", "pos": [0.5, 0.5]}
    row = {"id": EVIL, "question": EVIL, "answer": "A", "options": [EVIL, "b"], "unit": None, "form": "letter"}
    row |= {"graph": json.dumps({"frames": [{"nodes": [node]}]}), "space": "2d", "width": 16, "height": 9}
    summary = {"questions": 1, "kinds": {"localization": 1}, "sources": {EVIL: 1}, "left_out": {EVIL: 1}}
    summary |= {"letters": {EVIL: {"A": 1}}, "excluded": [EVIL], "scenes": {"done": 1, "failed": 1}}
    errors = [{"video_id": EVIL, "reason": EVIL, "message": EVIL}]
    return render_str_report(summary, {"localization": [row | {"duration_s": 1.0, "times_s": [0.0]}]}, errors)


def evaluation(root):
    entries = [entry(EVIL, 16.0, AVTR=[(TEMPORAL_Q, question("dog", when(0, 4)))])]
    (root / "questions.json").write_text(json.dumps(entries))
    lines = {"id": f"{EVIL}/1/AVTR/0", "prediction": question(EVIL, when(2, 6)) + EVIL}
    (root / "predictions.jsonl").write_text(json.dumps(lines))
    database = {EVIL: {"annotations": [{"segment": [0, 4], "label": EVIL}]}}
    (root / "labels.json").write_text(json.dumps({"database": database}))
    config = EvaluateConfig(names=NamesConfig(vectors=None), bootstrap=9, event_labels=str(root / "labels.json"))
    evaluate(root / "predictions.jsonl", root / "questions.json", root / "out", config)
    return (root / "out" / "index.html").read_text(encoding="utf-8")


def benchmark(root):
    rows = write_rows(root / "qa.json", [sti_row(1, "Spatial Relation", "B", Scene=EVIL)])
    answers = write_answers(root / "p.jsonl", {"scene0001.mp4/1": EVIL})
    (root / "p.jsonl.config.yaml").write_text(json.dumps({"engine": {"model": EVIL}}))
    evaluate_benchmark(BENCHMARKS["sti-bench"], answers, rows, root / "out")
    return (root / "out" / "index.html").read_text(encoding="utf-8")


# How often the name is told, at least: where a page stops telling it, nothing would be proven.
@pytest.mark.parametrize(
    ("write", "told"), [(annotation, 20), (training, 17), (video_str, 10), (evaluation, 3), (benchmark, 2)]
)
def test_no_page_runs_fetches_or_lets_out_anything(write, told, tmp_path):
    html = write(tmp_path)
    page = Tree(html)
    tags = Counter(tag for tag, _ in page.elements)
    assert not tags.keys() & {"script", "link", "iframe", "object", "embed", "base", "form", "img"}
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    [sheet] = page.styles
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert dict(part.split(" ", 1) for part in policies[0].split("; ")) == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "style-src-elem": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not re.search(r"url\(|@import|https?:", sheet)
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert "url(" not in (attributes.get("style") or "")
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(names) == len(set(names))
    links = [a[key] for _, a in page.elements for key in ("href", "src", "xlink:href") if key in a]
    assert links and all(link.startswith("#") and link[1:] in names for link in links)
    tables = [around for tag, _, around in page.placed if tag == "table"]
    assert tables and all("scroll" in around for around in tables)
    shown = [*page.texts, *(value for _, attributes in page.elements for value in attributes.values() if value)]
    assert sum(SHOWN in text for text in shown) >= told
    assert "\u202e" not in html and "\x01" not in html


@in_browser
def test_pages_fit_a_phone_and_a_browser_obeys_their_policy(tmp_path, monkeypatch):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    monkeypatch.setattr("tests.test_pages.EVIL", "long_" * 60)  # nowhere to break a line
    with playwright.sync_playwright() as driver:
        browser = launch(driver, tmp_path)
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        for write in (annotation, training, video_str, evaluation, benchmark):
            folder = tmp_path / write.__name__
            folder.mkdir()
            html = write(folder).replace("<details>", "<details open>")
            (folder / "page.html").write_text(html, encoding="utf-8")
            page.goto((folder / "page.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 390, write.__name__
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)", "ours, dark"
        assert said == [] and len(asked) == 5
        injected = (
            "<main><script>document.title = 'run'</script><style>body { color: red }</style><img src=http://x.test/>"
        )
        (folder / "page.html").write_text(html.replace("<main>", injected), encoding="utf-8")
        page.goto((folder / "page.html").as_uri())
        assert page.title() == "STI-Bench" and len(said) == 3, "script, style sheet and picture are refused"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(231, 235, 240)"
        browser.close()


def luminance(color: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_texts_and_lines_can_be_read_in_light_and_in_dark():
    schemes = style_sheet().split("@media (prefers-color-scheme: dark)")
    light, dark = (dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", text.split("}")[0])) for text in schemes)
    least = dict.fromkeys(("text", "soft", "accent", "good", "warn", "bad"), 4.5)  # WCAG AA for text, and for shapes
    least |= {f"c{number}": 3.0 for number in range(1, 7)}
    for colors in (light, dark):
        for name, ratio in least.items():
            for ground in ("page", "card"):
                low, high = sorted((luminance(colors[name]), luminance(colors[ground])))
                assert (high + 0.05) / (low + 0.05) >= ratio, (name, ground)


def test_a_distribution_counts_each_value_once():
    plot = distribution("IoU", "", "m", [0.0, 0.04, 0.5, 1.0], "red")
    # Bins of 0.05: two in the first, one from 0.5 on, 1 in the last; the axis goes to 2.
    assert [(box.x, box.y, box.height) for box in plot.boxes] == [(2, 0, 1000), (502, 500, 500), (952, 500, 500)]
    assert [tick.label for tick in plot.y_ticks] == ["0", "1", "2"]
    assert plot.marks == ((385.0, "var(--text)"),) and plot.legend[1].shown == "0.39"
    assert plot.strips[10] == (50.0, 5.0, "0.50–0.55: 1")


def test_grouped_bars_stand_around_the_middle_of_their_group():
    plot = grouped_bars("By x", "", {"a": {"m": 40.0, "n": 10.0}, "b": {"n": 20.0}}, {"m": "red", "n": "blue", "o": ""})
    assert [(box.x, box.width, box.height, box.color) for box in plot.boxes] == [
        (132.0, 116.0, 1000.0, "red"),
        (252.0, 116.0, 250.0, "blue"),
        (632.0, 116.0, 0.0, "red"),
        (752.0, 116.0, 500.0, "blue"),
    ]
    assert plot.x_ticks == (Tick(25.0, "a"), Tick(75.0, "b"))
    assert [key.label for key in plot.legend] == ["m", "n"] and plot.strips[1] == (50.0, 50.0, "b: n 20.00")


def test_a_predicted_interval_lies_within_its_true_one():
    plot = interval_rows(
        "I", "", [("q", (0.25, 0.5), (0.3, 0.4)), ("r", (0.5, 1.0), None), ("s", (0.0, 1.0), (0.6, 0.5))]
    )
    told = "q: true 25–50%, predicted 30–40%"
    first, second = plot.boxes[:2]
    assert first == Box(250.0, pytest.approx(70 / 3), 250.0, pytest.approx(860 / 3), "var(--silent)", told)
    assert (second.x, second.width, second.height) == (300.0, pytest.approx(100.0), pytest.approx(400 / 3))
    assert [box.title for box in plot.boxes[2:]] == [
        "r: true 50–100%, predicted none",
        "s: true 0–100%, predicted 60–50%",
    ]
    assert plot.height_px == 40
    assert plot.legend == (Key("true", "var(--silent)"), Key("predicted", "var(--c1)"))
