"""The training report: its tables against arithmetic on the rows, its charts, which completions it shows, and how."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shlex
from html import unescape
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pytest
from PIL import Image, ImageColor

from ravst_ray.config.base import dump_config
from ravst_ray.config.review import PredictionsConfig
from ravst_ray.config.train import TrainConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.ravst_json import dump_questions
from ravst_ray.policy.protocols import Completion
from ravst_ray.records import QAPair
from ravst_ray.reports import completions, curves
from ravst_ray.reports.completions import SAID, TRUE, pick
from ravst_ray.reports.curves import Series, chart, ends, shown, tail
from ravst_ray.reports.run_folder import Sampled, read_run, read_texts
from ravst_ray.reports.training_charts import phase_seconds, reward_charts
from ravst_ray.reports.training_report import write_training_report
from ravst_ray.review.predictions.service import Predictions
from ravst_ray.tasks.rubric import Reward
from ravst_ray.training.groups import Group
from ravst_ray.training.records import RunRecord, group_numbers
from tests.s3_server import BUCKET
from tests.test_report import Page, write_video

SIZE = (168, 112)  # a multiple of 28, and shown as it is: the model's pixels are the video's
TRUE_BOX, SAID_BOX = (28.0, 28.0, 84.0, 84.0), (56.0, 14.0, 140.0, 98.0)


def boxes(box, *times, name="drum"):
    return render([ObjectAnswer(name, None, tuple((time_s, box) for time_s in times))])


def interval(start_s, end_s, name="drum"):
    return render([ObjectAnswer(name, (start_s, end_s))])


PAIRS = [
    QAPair("clip/1/AVTR/0", "clip", 1, "AVTR", "When does the <drum> sound?", interval(1.0, 3.0)),
    QAPair("clip/1/AVSR/0", "clip", 1, "AVSR", "Where is it?", boxes(TRUE_BOX, 1.0, 2.0, 3.0)),
    QAPair("gone/1/AVTR/0", "gone", 1, "AVTR", "And here?", interval(0.5, 2.5)),
]


def completion(text, tokens=10, truncated=False):
    return Completion((1,) * tokens, (0.0,) * tokens, (0,) * tokens, text, truncated)


def reward(total, malformed=None, **parts):
    return Reward(total, {"format": 1.0, "object": 0.0, "temporal": 0.0, "spatial": 0.0} | parts, malformed or {})


def group(pair, *scored):
    return Group(pair.qa_id, pair.task, (1,), None, tuple(one for one, _ in scored), tuple(two for _, two in scored))


STEPS = [
    [
        group(
            PAIRS[0],
            (completion(interval(1.0, 2.0), tokens=8), reward(1.5, temporal=0.5)),
            (completion("no \x01answer", tokens=24, truncated=True), reward(0.25, {"no_answer": 1}, format=0.0)),
        ),
        group(
            PAIRS[1],
            (completion(boxes(SAID_BOX, 1.0, 2.0, 3.0)), reward(1.25, spatial=0.25)),
            (completion(boxes(SAID_BOX, 1.0)), reward(1.25, {"stray_text": 2}, spatial=0.5)),
        ),
    ],
    [
        group(
            PAIRS[2],
            (completion(interval(0.5, 2.4), tokens=12), reward(1.875, temporal=0.875)),
            (completion(interval(5.0, 1e9), tokens=6), reward(1.0)),
        ),
        group(
            PAIRS[0],
            (completion(interval(1.0, 3.0), tokens=4), reward(2.0, temporal=1.0)),
            (completion(interval(1.0, 2.5), tokens=4), reward(1.75, temporal=0.75)),
        ),
    ],
]
MORE = {
    "loss": 0.5,
    "kl": 0.01,
    "clip_ratio/region_mean": 0.02,
    "sync/logprob_gap": 2e-7,
    "sync/gap_limit": 0.02,
    "step_time": 8.0,
    "seconds/waiting": 3.0,
    "seconds/sync": 0.5,
    "rollout/busy_share": 0.75,
    "learner/busy_share": 0.5,
    "rollout/retries": 2.0,
    "rollout/restarts": 1.0,
    "rollout/skipped_questions": 0.0,
}


def write_run(root: Path, steps=STEPS, **settings) -> Path:
    """A run on the videos "clip", which is there if someone wrote it, and "gone"."""
    output = root / "run"
    output.mkdir(exist_ok=True)
    (root / "videos").mkdir(exist_ok=True)
    (root / "questions.json").write_text(dump_questions(PAIRS, {"clip": 4.0, "gone": 4.0}))
    data = {"annotations": str(root / "questions.json"), "videos": str(root / "videos")}
    frames = {"step_s": 1.0, "min_pixels": 28 * 28}
    config = TrainConfig.model_validate(
        {
            "data": data,
            "output": str(output),
            "max_steps": 9,
            "frames": frames,
            "decode": {"backend": "pyav"},
            **settings,
        }
    )
    (output / "config.yaml").write_text(dump_config(config))
    record = RunRecord(output, [], 0, {})
    for step, groups in enumerate(steps, start=1):
        record.write(step, group_numbers(groups, step) | MORE | {"seconds/step": 10.0 * step})
        record.rollouts(step, groups, [f"<|vision_end|>asked of {one.question_id}<|im_end|>" for one in groups])
    return output


def page_of(output: Path) -> Page:
    return Page(write_training_report(output).read_text(encoding="utf-8"))


def rows_of(page: str) -> dict[str, list[list[str]]]:
    """Exact values (or dashes) of the tables' rows by the row's name."""
    found: dict[str, list[list[str]]] = {}
    for line in re.findall(r"<tr[^>]*><th>(.*?)</tr>", page, re.DOTALL):
        name, _, rest = line.partition("</th>")
        cells = re.findall(r'<td class="n">(?:<data value="([^"]*)">|(–))', rest)
        found.setdefault(re.sub(r"<small>.*?</small>| *<[^>]+>", "", name), []).append(
            [value or dash for value, dash in cells]
        )
    return found


@pytest.fixture(scope="module")
def shown_run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run")
    output = write_run(root)
    write_video(root / "videos" / "clip.mp4", 4.0, sound=False, size=SIZE)
    return write_training_report(output)


@pytest.fixture(scope="module")
def html(shown_run) -> str:
    return shown_run.read_text(encoding="utf-8")


def test_the_page_needs_nothing_beside_it(shown_run, html):
    assert shown_run.name == "report.html"
    page = Page(html)
    assert page.images and all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    targets = {attributes.get("id") for _, attributes in page.elements}
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert len(links) == 6 and all(link[1:] in targets for link in links)


def test_key_figures_are_arithmetic_on_the_rows(html):
    page = Page(html)
    assert page.value("Steps") == 2
    assert page.value("Completions") == 8
    assert page.value("Reward") == pytest.approx((1.875 + 1.0 + 2.0 + 1.75) / 4)
    assert page.value("Tokens") == (12 + 6 + 4 + 4) / 4
    assert page.value("Cut off") == (1 / 4 + 0) / 2
    assert page.value("Equal rewards") == (1 / 2 + 0) / 2
    assert page.value("Log-prob gap") == 2e-7
    assert page.value("Time") == 30.0
    assert page.value("Actors busy") == 0.75 and page.value("Learner busy") == 0.5
    assert {"of 9", "in the last step; 1.06 in the first"} <= set(page.texts)


def test_tables_are_arithmetic_on_the_rows(html):
    rows = rows_of(html)
    # Means of the first step, of the last, of both; AVTR, then AVSR, which the last step didn't ask.
    assert rows["reward"] == [
        [f"{value:.10g}" for value in ((1.5 + 0.25) / 2, 6.625 / 4, (1.5 + 0.25 + 6.625) / 6)],
        ["1.25", "–", "1.25"],
    ]
    assert rows["temporal× 1"] == [[f"{value:.10g}" for value in (0.5 / 2, 2.625 / 4, 3.125 / 6)]]
    assert rows["temporal× 0"] == [["0", "–", "0"]]
    assert rows["spatial× 0.5"] == [["0.375", "–", "0.375"]]
    assert rows["tokens"] == [
        [f"{value:.10g}" for value in (16, 6.5, (8 + 24 + 12 + 6 + 4 + 4) / 6)],
        ["10", "–", "10"],
    ]
    assert rows["cut off"] == [["0.5", "0", f"{1 / 6:.10g}"], ["0", "–", "0"]]
    assert rows["malformed"] == [["0.5", "0", f"{1 / 6:.10g}"], ["0.5", "–", "0.5"]]
    # Kinds by how often they are met in a completion; a step that doesn't meet one counts 0.
    assert rows["stray_text"] == [["0.5", "0", "0.25"]] and rows["no_answer"] == [["0.25", "0", "0.125"]]
    assert html.index("stray_text<small>") < html.index("no_answer<small>")
    assert "there is no &lt;answer&gt;" in html
    assert rows["seconds/step"] == [["10", "20", "15", "10", "20"]]
    assert "step" not in rows


def test_seconds_by_phase_add_up(html):
    page = Page(html)
    assert page.value("waiting for rollouts") == 6.0
    assert page.value("forward and backward") == 2 * (8.0 - 3.0)
    assert page.value("weights to the engines") == 1.0
    assert page.value("optimizer, probe, files") == 30.0 - 6.0 - 10.0 - 1.0
    assert page.value("groups asked again after a failure") == 4
    assert page.value("rollout actors started again") == 1, "it is counted on, not summed"
    assert "questions passed over because of their video" not in page.texts
    # A second update from the same groups waits for nothing; without TRL's time the rest isn't told apart.
    only = phase_seconds({"seconds/step": {3: 5.0}, "seconds/sync": {3: 1.0}})
    assert [values[3] for values in only.values()] == [0.0, 0.0, 1.0, 4.0]


def test_charts_tell_the_values_of_each_step(html):
    titles = [attributes["title"] for _, attributes in Page(html).elements if attributes.get("class") == "strip-at"]
    assert "step 1: all 1.06, AVTR 0.875, AVSR 1.25" in titles
    assert "step 2: all 1.66, AVTR 1.66" in titles
    assert "step 1: AVSR 0.375" in titles, "spatial, of the task that counts it"
    assert "step 1: cut off at the token limit 25%, groups of equal rewards 50%" in titles
    assert "step 2: KL 0.01" in titles and "step 2: any 2%" in titles and "step 2: probe 2e-07" in titles
    assert "step 2: actors 75%, learner 50%" in titles


def test_a_chart_by_hand():
    made = chart("x", [Series("a", {1: 0.0, 2: 3.0, 4: 4.0}, "red"), Series("b", {2: 1.0}, "blue")], [1, 2, 3, 4, 5])
    assert [tick.label for tick in made.y_ticks] == ["0", "1", "2", "3", "4"]
    a, b = made.curves
    assert a.path == "M0.0 1000.0L250.0 250.0L750.0 0.0", "step 3 has no value and is passed over"
    assert b.path == "M250.0 750.0h0", "a single value is a dot"
    assert (a.smooth, a.last, b.last) == ("", 4.0, 1.0)
    assert [tick.label for tick in made.x_ticks] == ["1", "2", "3", "4", "5"]
    assert made.strips[1] == (12.5, 25.0, "step 2: a 3, b 1") and made.strips[2][2] == "step 3: nothing"
    assert chart("x", [Series("a", {7: 1.0}, "red")], [1, 2]) is None
    assert chart("x", [], []) is None
    alone = chart("x", [Series("a", {5: 0.0}, "red")], [5])
    assert alone.curves[0].path == "M500.0 1000.0h0" and alone.x_ticks[0].at == 50.0


def test_long_runs_are_drawn_in_few_points():
    steps = range(1, 10 * curves.MAX_POINTS + 1)
    made = chart("x", [Series("a", {step: float(step % 10) for step in steps}, "red")], steps)
    assert made.curves[0].path.count("L") + 1 == curves.MAX_POINTS == len(made.strips)
    assert made.strips[0][2] == "steps 1–10: a 4.5"
    heights = {float(point.split()[1]) for point in made.curves[0].smooth[1:].split("L")}
    assert heights == {250.0}, "4.5 on an axis up to 6, everywhere, at both ends too"


def test_first_and_last_steps():
    assert [tail(count) for count in (0, 1, 14, 15, 200)] == [1, 1, 1, 2, 20]
    values = {step: float(step) for step in range(1, 21)}
    assert ends(values, range(1, 21)) == (1.5, 19.5)
    assert ends({1: 5.0}, range(1, 21)) == (5.0, None)
    assert [shown(2.4e-7), shown(1234.5), shown(0.12345, "share"), shown(3.0, "s")] == [
        "2.4e-07",
        "1,234",
        "12.3%",
        "3 s",
    ]


def sampled(question, score, step=1, task="AVTR", place=0):
    return Sampled(step, question, task, score, 1, False, {}, {}, Path("x"), place)


def test_best_and_worst_are_the_right_ones():
    rows = [
        sampled("a", 2.0, step=1),
        sampled("a", 1.9, step=2),
        sampled("b", 1.5, step=3),
        sampled("c", 1.5, step=4),
        sampled("d", 0.0, step=5),
        sampled("d", 0.0, step=6),
        sampled("e", 0.5, step=1),
        sampled("nan", float("nan")),
    ]
    best, worst = pick(rows)["AVTR"]
    assert [(one.question_id, one.step) for one in best] == [("a", 1), ("c", 4)], (
        "one a question, equal ones: the latest"
    )
    assert [(one.question_id, one.step) for one in worst] == [("d", 6), ("e", 1)]
    few = pick([sampled("a", 1.0), sampled("b", 2.0), sampled("q", 1.0, task="own"), sampled("r", 1.0, task="AVSTR")])
    assert list(few) == ["AVTR", "AVSTR", "own"]
    assert few["AVTR"] == ([sampled("b", 2.0), sampled("a", 1.0)], []), "none is shown twice"
    assert pick([]) == {}


def cards_of(html: str) -> dict[tuple[str, str, str], str]:
    """Cards by heading, question and reward."""
    found = {}
    for part in re.split(r'<h3 class="(?=best|worst)', html)[1:]:
        heading, _, rest = part.partition('"')
        for card in rest.split('<article class="card sample">')[1:]:
            name = re.search(r"</span>([^<]+)</h3>", card).group(1)
            value = re.search(r'reward</small> <data value="([^"]+)"', card).group(1)
            found[heading, name, value] = card.partition("</article>")[0]
    return found


def test_the_shown_completions_are_the_extremes_of_each_task(html):
    assert list(cards_of(html)) == [
        ("best", "clip/1/AVTR/0", "2"),
        ("best", "gone/1/AVTR/0", "1.875"),
        ("worst", "clip/1/AVTR/0", "0.25"),
        ("worst", "gone/1/AVTR/0", "1"),
        ("best", "clip/1/AVSR/0", "1.25"),
        ("worst", "clip/1/AVSR/0", "1.25"),
    ]


def test_a_card_has_both_answers_and_the_interval_as_bars(html):
    cards = cards_of(html)
    card = cards["best", "clip/1/AVTR/0", "2"]
    assert "When does the &lt;drum&gt; sound?" in card and "step 2" in card
    assert card.count("&lt;when&gt;[1.0, 3.0]&lt;/when&gt;") == 2
    assert card.count('style="left: 25.000%; width: 50.000%"') == 2, "1 to 3 of 4 seconds, the true and the predicted"
    assert 'title="true: 1–3 s"' in card and 'title="predicted: 1–3 s"' in card
    assert card.count("<img") == 4
    worst = cards["worst", "clip/1/AVTR/0", "0.25"]
    assert "no �answer" in worst and "<code>no_answer</code>" in worst and "tokens, cut off" in worst
    assert 'title="predicted' not in worst
    beyond = cards["worst", "gone/1/AVTR/0", "1"]
    assert 'style="left: 100.000%; width: 0.000%" title="predicted: 5–1e+09 s"' in beyond, "cut at the end of the axis"


def test_boxes_are_drawn_in_their_colours(html):
    best = cards_of(html)["worst", "clip/1/AVSR/0", "1.25"]  # said boxes at 1 s alone
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))).astype(int)
        for uri in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', best)
    ]
    assert re.findall(r"<figcaption>([^<]+)<", best) == ["1.0 s", "2.0 s", "3.0 s"]
    assert 'alt="Frame at 1.0 s; true: drum; predicted: drum"' in best
    assert 'alt="Frame at 2.0 s; true: drum; predicted: no box"' in best

    def near(color, pixels):
        return (np.abs(pixels - ImageColor.getrgb(color)).max(-1) < 60).mean()

    assert pictures[0].shape == (224, 336, 3), "twice the video"
    left = [picture[70:160, 55:58].reshape(-1, 3) for picture in pictures]  # of the true box
    right = [picture[40:190, 279:282].reshape(-1, 3) for picture in pictures]  # of the predicted one
    assert all(near(TRUE, edge) > 0.5 for edge in left)
    assert near(SAID, right[0]) > 0.3 and near(SAID, right[1]) == near(SAID, right[2]) == 0


def test_the_shown_completions_are_a_file_that_review_opens(shown_run, html):
    rows = [json.loads(line) for line in shown_run.with_name("report.completions.jsonl").read_text().splitlines()]
    assert [(row["id"], row["step"], row["reward"]) for row in rows] == [
        ("clip/1/AVTR/0", 2, 2.0), ("clip/1/AVTR/0", 1, 0.25), ("clip/1/AVSR/0", 1, 1.25), ("clip/1/AVSR/0", 1, 1.25),
    ]  # fmt: skip
    assert rows[0]["prediction"] == interval(1.0, 3.0) and rows[1]["truncated"] is True
    (command,) = re.findall(r"<pre[^>]*>(ravst review [^<]+)</pre>", html)
    words = shlex.split(unescape(command))
    given = dict(zip(words[2:8:2], words[3:8:2], strict=True))
    assert words[8:] == [] and given["--predictions"] == str(shown_run.with_name("report.completions.jsonl"))
    config = PredictionsConfig(videos=given["--videos"], names={"vectors": None})
    page = Predictions([given["--predictions"]], given["--annotations"], config)
    addresses = re.findall(r"<code>(#id=[^<]+)</code>", html)
    assert len(addresses) == len(set(addresses)) == 4
    shown = [dict(parse_qsl(unescape(one)[1:])) for one in addresses]
    items = [page.item(one["id"], int(one["sample"])) for one in shown]
    page.close()
    assert [one["answers"][0]["text"] for one in items] == [row["prediction"] for row in rows]
    assert all(one["video"]["found"] for one in items) and items[0]["answers"][0]["total"] == 2.0


def test_a_missing_video_costs_the_picture_alone(html):
    card = cards_of(html)["best", "gone/1/AVTR/0", "1.875"]
    assert "<img" not in card and "No picture" in card and "The video can&#39;t be shown: " in card
    assert "[0.5, 2.5]" in card and "[0.5, 2.4]" in card and 'title="true: 0.5–2.5 s"' in card


def test_videos_of_a_store_are_shown_as_those_of_a_folder(s3, tmp_path, shown_run, html):
    s3.put("shown/clip.mp4", (shown_run.parents[1] / "videos" / "clip.mp4").read_bytes())
    data = {"annotations": str(tmp_path / "questions.json"), "videos": f"s3://{BUCKET}/shown"}
    page = page_of(write_run(tmp_path, data=data))
    assert page.images == Page(html).images != []
    assert list((tmp_path / "tmp").iterdir()) == [], "no copy stays"


def test_a_broken_video_costs_the_picture_alone(tmp_path):
    output = write_run(tmp_path, STEPS[:1])
    (tmp_path / "videos" / "clip.mp4").write_bytes(b"no video")
    page = page_of(output)
    assert page.images == [] and page.texts.count("No picture") == 4
    assert page.value("Reward") == pytest.approx(4.25 / 4)


def test_questions_and_settings_that_are_gone(tmp_path):
    output = write_run(tmp_path)
    (tmp_path / "questions.json").write_text("[]")
    page = page_of(output)
    assert sum("no longer among those" in text for text in page.texts) == 6
    assert "asked of clip/1/AVTR/0" in page.texts, "the prompt still has the question"
    (tmp_path / "questions.json").unlink()
    assert sum("Neither the true answer nor the video" in text for text in page_of(output).texts) == 6
    (output / "config.yaml").write_text("typo: 1")
    page = page_of(output)
    assert any("typo: unknown key" in text for text in page.texts)
    assert page.value("Completions") == 8 and "of 9" not in page.texts


@pytest.mark.parametrize("made", [True, False])
def test_a_run_without_a_step_has_a_report(tmp_path, made):
    output = write_run(tmp_path, [])
    if made:
        (output / "metrics.jsonl").write_text("")
    page = page_of(output)
    assert page.value("Steps") == 0
    assert "No steps" in page.texts and not {"Rewards", "Sampling", "Update", "Time"} & set(page.texts)
    assert not any(tag == "path" for tag, _ in page.elements)


def test_an_empty_folder_has_a_report(tmp_path):
    assert "No steps" in page_of(tmp_path).texts


def test_a_run_of_one_step(tmp_path):
    page = page_of(write_run(tmp_path, STEPS[:1]))
    assert page.value("Steps") == 1 and page.value("Reward") == 4.25 / 4
    paths = [attributes for tag, attributes in page.elements if tag == "path"]
    assert paths and all(attributes["class"] == "dots" for attributes in paths)


def test_missing_keys_and_torn_files_are_told(tmp_path):
    output = write_run(tmp_path, [])
    (output / "metrics.jsonl").write_text(
        '{"step": 1, "reward/mean": 1.0, "loss": NaN, "note": "x"}\nnot JSON\n[1]\n'
        '{"step": 3, "reward/own": 0.5}\n{"ste'
    )
    (output / "rollouts" / "step_000001.parquet").write_bytes(b"torn")
    page = page_of(output)
    assert page.value("Steps") == 2
    assert "3 lines of metrics.jsonl can't be read and are left out." in page.texts
    assert any("rollouts/step_000001.parquet can't be read" in text for text in page.texts)
    assert page.value("all") == 1.0 and "Own" in page.texts and "Loss" not in page.texts
    assert "Time" not in page.texts and "Best and worst" not in page.texts


def test_updates_from_the_same_groups_count_once(tmp_path):
    output = write_run(tmp_path, [STEPS[0], STEPS[0], STEPS[1], STEPS[1]], learner={"iterations": 2})
    run = read_run(output)
    assert [numbers["step"] for numbers in run.steps] == [1, 2, 3, 4]
    assert [one.step for one in run.completions] == [1, 1, 1, 1, 3, 3, 3, 3]
    prompt, text = read_texts(run.completions[1])
    assert (prompt, text) == ("<|vision_end|>asked of clip/1/AVTR/0<|im_end|>", "no \x01answer")
    assert json.loads((output / "metrics.jsonl").read_text().splitlines()[0])["AVTR/reward/mean"] == 0.875


def test_frames_are_taken_where_there_is_something_to_see():
    times = completions._times({1.0: 0, 2.0: 0}, {2.0: 0, 9.0: 0}, [], 4.0)
    assert times == [1.0, 2.0], "not beyond the end"
    assert all(1.0 <= time_s <= 2.0 for time_s in completions._times({}, {}, [(1.0, 2.0)], 4.0))
    assert completions._times({}, {}, [], 4.0) == [0.5, 1.5, 2.5, 3.5]
    assert completions._times({}, {}, [(-5.0, -4.0)], 0.0) == [0.0]


STR_ROW = {"video": "clip", "duration_s": 0, "task": "STR", "question": "Which?", "unit": ""}
"""The video's length isn't stated: its file's counts."""


def graph_text(*frames, answer="B"):
    """``graph_text((2.0, {"a.1": (0.5, 0.5)}))``"""
    tree = [{"t": t, "nodes": [{"id": name, "pos": pos} for name, pos in places.items()]} for t, places in frames]
    return f"<think><graph>{json.dumps({'frames': tree})}</graph></think><answer>{answer}</answer>"


def write_str_run(root, true, said, **row):
    """A run of one question and two completions: what was said, and nothing."""
    answer, form = row.pop("answer", "B"), row.pop("form", "choice")
    graph = true.partition("<graph>")[2].partition("</graph>")[0]
    rows = [{**STR_ROW, "id": "clip/0", "form": form, "options": ["a", "b"], "answer": answer, "graph": graph, **row}]
    scored = ((completion(said), Reward(2.0, {"node": 1.0})), (completion("no"), Reward(0.0, {"node": 0.0})))
    pair = QAPair("clip/0", "clip", 0, "STR", "Which?", true)
    data = {"annotations": str(root / "questions.jsonl"), "videos": str(root / "videos")}
    output = write_run(root, [[group(pair, *scored)]], data=data, prompt={"box_space": "video"})
    (root / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return output


def test_a_graph_is_drawn_over_the_frame_that_it_is_scored_at(tmp_path):
    """Said of 2.3 s, it is compared with the truth at 2 s; frames that no true one is near to are not looked at."""
    true = graph_text((2.0, {"a.1": (0.25, 0.5)}), (3.5, {"a.1": (0.25, 0.25)}))
    said = graph_text((2.3, {"a.1": (0.75, 0.5)}), (0.1, {"a.1": (0.5, 0.5)}))
    output = write_str_run(tmp_path, true, said)
    write_video(tmp_path / "videos" / "clip.mp4", 4.0, sound=False, size=SIZE)
    html = write_training_report(output).read_text(encoding="utf-8")
    card = cards_of(html)["best", "clip/0", "2"]
    assert re.findall(r'alt="([^"]+)"', card) == [
        "Frame at 2.0 s; true: a; predicted: a",
        "Frame at 3.5 s; true: a; predicted: no box",
    ]
    uri = re.search(r'src="data:image/jpeg;base64,([^"]+)"', card)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))).astype(int)
    for x, color in ((84, TRUE), (252, SAID)):  # of a picture that is 336 x 224
        ring = pixels[108:117, x - 4 : x + 5].reshape(-1, 3)
        assert (np.abs(ring - ImageColor.getrgb(color)).max(-1) < 60).any()


def test_a_box_is_drawn_in_the_second_that_is_asked_for(tmp_path):
    true = graph_text((2.0, {"a.1": (0.25, 0.5)}))
    output = write_str_run(tmp_path, true, "<answer>[56, 14, 140, 98]</answer>", answer=str(list(TRUE_BOX)), form="box")
    write_video(tmp_path / "videos" / "clip.mp4", 4.0, sound=False, size=SIZE)
    card = cards_of(write_training_report(output).read_text(encoding="utf-8"))["best", "clip/0", "2"]
    assert re.findall(r'alt="([^"]+)"', card) == ["Frame at 2.0 s; true: answer, a; predicted: answer"]


def test_graphs_in_metres_are_seen_from_above_as_they_are_scored(tmp_path):
    """Turned by a quarter and moved, the said graph lies on the true one; what is like nothing true is marked "?"."""
    places = {"bed.1": (0, 0, 0), "desk.1": (4, 0, 0), "lamp.1": (0, 3, 1)}
    moved = {name: (10 - y, 5 + x, z) for name, (x, y, z) in places.items()}
    said = graph_text((2.0, {**moved, "cat.1": (9, 9, 0)}))
    output = write_str_run(tmp_path, graph_text((2.0, places)), said, space="3d")
    html = write_training_report(output).read_text(encoding="utf-8")
    card = cards_of(html)["best", "clip/0", "2"]
    assert "Seen from above: bed, desk, lamp" in card and "<img" not in card
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]* (fill="#|stroke="#)', card)
    marks = {
        side: [(float(x), float(y)) for x, y, what in circles if what == side] for side in ('fill="#', 'stroke="#')
    }
    true, other = marks.values()
    metre = float(re.search(r"h([\d.]+)\"/>", card)[1])
    assert len(true) == 3 and len(other) == 4
    assert math.dist(true[0], true[1]) == pytest.approx(4 * metre, abs=0.2)
    assert true[2][1] < true[0][1], "what is ahead is on top"
    for one, two in zip(true, other, strict=False):
        assert math.dist(one, two) < 0.2
    assert card.count("<line") == 3 and card.count(">?</text>") == 1


def test_a_part_that_only_one_task_has_is_its_alone():
    charts = reward_charts(
        {f"{start}reward/{name}": {1: 0.5} for start, names in (
            ("", ("mean", "format", "node", "temporal")), ("AVTR/", ("mean", "format", "temporal")),
            ("STR/", ("mean", "format", "node")),
        ) for name in names},
        [1],
        None,
    )  # fmt: skip
    assert {one.title: [curve.label for curve in one.curves] for one in charts} == {
        "Reward": ["all", "AVTR", "STR"],
        "Format": ["all", "AVTR", "STR"],
        "Temporal": ["AVTR"],
        "Node": ["STR"],
    }
