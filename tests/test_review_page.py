"""The review page in a real Chromium, at a real server on loopback: toy videos with their exact boxes."""

import io
import json
import shutil
from unittest.mock import ANY
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from ravst_ray.annotate.unite import unite
from ravst_ray.core.frame_times import event_times
from ravst_ray.records import Event, EventAnnotation, SceneObject, Track
from tests.broken_videos import Recipe, read_number, write_video
from tests.chromium import IN_BROWSER
from tests.review_browser import COLOURED, PHONE, brightness, opening, overflow_px, serving
from tests.review_output import copy_videos, item, write_output

pytestmark = IN_BROWSER

HOSTILE = "a'\"><img src=x onerror=alert(1)> <script>alert(2)<script>&amp;"
# Lies on its side, its pixels are twice as wide as high, its pictures last 20 to 120 ms, its sound begins 0.3 s before.
ODD = Recipe(pictures=50, width=96, height=80, gaps_ms=(40, 120, 20), start_ms=300, rotation=90, pixel_aspect=2)
ODD_SIZE = 80, 192
ODD_MARK = 0.0, 176.0, 10.0, 192.0  # its red mark, 8 x 10 pixels at the coded picture's top left, as it is shown
LAPTOP = {"width": 1280, "height": 720}


def annotated(truth, database, label=None):
    """The events of a toy video with the true boxes of what is seen in them."""
    events = []
    for number, one in enumerate(database["annotations"], 1):
        start_s, end_s = one["segment"]
        times_s = event_times(start_s, end_s, 1.0)
        tracks, things = [], []
        for track_id, thing in enumerate(truth["objects"], 1):
            boxes = {t: tuple(thing["boxes"][f"{t:.1f}"]) for t in times_s if f"{t:.1f}" in thing["boxes"]}
            audible = any(start < end_s and start_s < end for start, end in thing["events"])
            things.append(SceneObject(thing["name"], audible))
            tracks.append(
                Track(track_id, thing["name"], audible, tuple(boxes), tuple(boxes.values()), (0.9,) * len(boxes))
            )
        event = Event(number, start_s, end_s, label or one["label"], None, label or one["caption"])
        events.append(EventAnnotation(event, tuple(things), times_s, tuple(tracks)))
    return unite(events)


@pytest.fixture(scope="module")
def site(world, tmp_path_factory):
    """A server for twelve events: three toy videos, one by a hostile name, one without its file, one that is odd."""
    root = tmp_path_factory.mktemp("page")
    database = json.loads(world.annotations.read_text())["database"]
    names = sorted(world.truth)
    shutil.copytree(world.videos, root / "videos")
    copy_videos(world.videos / f"{names[0]}.mp4", root / "videos", HOSTILE)
    sources = {**{name: name for name in names}, HOSTILE: names[0], "lost": names[0]}
    items = [
        item(
            name,
            annotated(world.truth[source], database[source], "</b>" + HOSTILE if name == HOSTILE else None),
            duration_s=world.truth[source]["duration"],
        )
        for name, source in sources.items()
    ]
    write_video(root / "videos" / "odd.mp4", ODD)
    mark = Track(1, "mark", False, (1.5,), (ODD_MARK,), (0.9,))
    event = Event(1, 0.5, 2.0, "hardly anything seen", None, None)
    seen = EventAnnotation(event, (SceneObject("mark", False),), event_times(0.5, 2.0), (mark,))
    items.append(item("odd", (seen,), duration_s=3.0, width=ODD_SIZE[0], height=ODD_SIZE[1]))
    write_output(str(root / "out"), items, root / "videos")
    (root / "out" / "review").mkdir()
    (root / "out" / "review" / "torn.jsonl").write_text("not a verdict\n")
    with serving(root / "out", "--reviewer", "ann") as address:
        yield address


@pytest.fixture
def window(browser, site):
    """Opens the page as somebody sees it."""

    def as_somebody(page, reviewer, prepare):
        if reviewer:
            page.add_init_script(f"localStorage.setItem('reviewer', {json.dumps(reviewer)})")
        prepare(page)

    with opening(browser, site) as open_:
        yield lambda fragment="", reviewer=None, prepare=lambda page: None, **context: open_(
            fragment, lambda page: as_somebody(page, reviewer, prepare), **context
        )


def asked(site, path, **parameters):
    with urlopen(f"{site}api/{path}?{urlencode(parameters)}") as answer:
        return json.load(answer)


def row(video_id, event_num=1):
    return urlencode({"id": video_id, "event": event_num})


def saved(page, text="saved"):
    page.wait_for_function("text => document.getElementById('status').textContent.startsWith(text)", arg=text)


def shown(page):
    """The video and event that the page shows, by its address."""
    return page.evaluate(
        "(({id, event}) => id + '/' + event)(Object.fromEntries(new URLSearchParams(location.hash.slice(1))))"
    )


def standing(page, time_s):
    """Wait until the video shows the picture of a time."""
    page.wait_for_function("time => stage.dataset.shown === time", arg=f"{time_s:.3f}")


def point(page, x, y):
    """Where a point of the 256 x 256 picture is on the screen."""
    box = page.locator("#overlay").bounding_box()
    return box["x"] + x * box["width"] / 256, box["y"] + y * box["height"] / 256


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def test_ten_rows_by_keyboard(window, site):
    page = window()
    rows = [one["annotation_id"] for one in asked(site, "queue")["items"]]
    assert len(rows) == 12 and shown(page) == rows[0]
    page.fill("#reviewer", "dan")
    page.keyboard.press("Enter")  # the next key is no part of the name
    said = {}
    for number, name in enumerate(rows[:10]):
        assert shown(page) == name
        key, said[name] = ("r", "rejected") if number % 3 == 2 else ("a", "accepted")
        page.keyboard.press(key)
        page.wait_for_function(
            "name => document.querySelector('[aria-current]').parentNode.dataset.id !== name", arg=name
        )
        saved(page, f"saved: {said[name]}")
    assert {one["annotation_id"]: one["verdict"] for one in asked(site, "queue", reviewed="yes")["items"]} == said
    page.wait_for_function("() => progress.textContent === '10 of 12 rows reviewed'")
    page.keyboard.press("g")
    page.wait_for_selector("#figures .tile")
    assert page.locator("#figures .tile .note").first.inner_text() == "7 accepted, 3 rejected, 0 edited"
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.keyboard.press("?")
    assert "accept, and go on" in page.locator("#keys").inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("u")  # goes back to what was said last, and takes it back
    saved(page, "saved: taken back")
    assert shown(page) == rows[9]
    page.reload()
    page.wait_for_selector("#item:not([hidden])")
    assert shown(page) == rows[9]
    page.keyboard.press("p")
    page.wait_for_function(
        "name => document.querySelector('[aria-current]').parentNode.dataset.id === name", arg=rows[8]
    )
    page.wait_for_selector("#verdicts button:enabled:has-text('Undo')")
    page.keyboard.press("u")  # after a reload: what was said of the shown row
    saved(page, "saved: taken back")
    assert [one["annotation_id"] for one in asked(site, "queue", reviewed="yes")["items"]] == rows[:8]
    page.goto(f"{site}#reviewed=second&{row('lost')}")  # a link to another row, while the page is open
    page.wait_for_function("() => document.querySelector('#head .id')?.textContent === 'lost'")
    page.wait_for_function("() => document.querySelector('#rows .end').textContent === 'Nothing here.'")
    page.fill("#reviewer", "eve")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#rows .row').length === 8")


def test_boxes_names_and_bounds_are_changed(window, site, world):
    name = sorted(world.truth)[1]  # a green ball squeaks from 6.4 to 9.7 s beside three silent things
    page = window(row(name))
    before = asked(site, "item", video_id=name, event_num=1)["events"][0]
    number, track = next((k, one) for k, one in enumerate(before["tracks"]) if one["name"] == "green ball")
    assert before["frame_times_s"] == [6.4, 7.4, 8.4, 9.4] == track["times_s"]
    standing(page, 6.4)
    said = page.locator("#history .entries li").count()
    x1, y1, x2, y2 = track["boxes_xyxy_px"][0]
    centre = point(page, (x1 + x2) / 2, (y1 + y2) / 2)
    page.mouse.click(*centre)
    page.wait_for_selector(".tracks .chosen >> text=split here")
    scale = page.locator("#overlay").bounding_box()["width"] / 256
    drag(page, centre, (centre[0] - 8 * scale, centre[1] + 4 * scale))  # a key at 6.4 s: 8 px left, 4 px down
    page.keyboard.press(".")
    page.keyboard.press(".")
    standing(page, 8.4)
    for _ in range(3):
        page.keyboard.press("ArrowUp")  # a key at 8.4 s: 3 px up, and 2 px wider
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert "2 boxes of track" in page.locator("#unsaved").inner_text()
    page.keyboard.press("a")  # no verdict on what isn't saved
    assert "Save (S) or discard" in page.locator("#status").inner_text()
    page.keyboard.press("s")
    saved(page, "saved: drew 2 boxes")
    after = asked(site, "item", video_id=name, event_num=1)["events"][0]["tracks"][number]
    third = track["boxes_xyxy_px"][2]
    first = [x1 - 8, y1 + 4, x2 - 8, y2 + 4]
    last = [third[0], third[1] - 3, third[2] + 2, third[3] - 3]
    expected = [first, [(a + b) / 2 for a, b in zip(first, last, strict=True)], last, track["boxes_xyxy_px"][3]]
    for box, true in zip(after["boxes_xyxy_px"], expected, strict=True):
        assert box == pytest.approx(true, abs=0.6)  # the pointer stands on whole pixels of the screen
    # What was drawn before it was saved is what the server made of it.
    keys = [[6.4, after["boxes_xyxy_px"][0]], [8.4, after["boxes_xyxy_px"][2]]]
    drawn = page.evaluate(
        "async ([track, keys, grid]) => (await import('/static/geometry.js')).withKeys(track, new Map(keys), grid)",
        [track, keys, before["frame_times_s"]],
    )
    assert drawn["times_s"] == after["times_s"]
    for box, made in zip(drawn["boxes_xyxy_px"], after["boxes_xyxy_px"], strict=True):
        assert box == pytest.approx(made, abs=1e-6)

    page.click("#objects .object:has-text('blue drum') .sound")
    saved(page, "saved: made “blue drum” audible")
    page.click("#objects button.text >> text=green ball")
    page.keyboard.type("tennis ball")
    page.keyboard.press("Enter")
    saved(page, "saved: renamed “green ball”")
    page.keyboard.press("Escape")  # no track is chosen any more
    handle = page.locator(".bar.own .handle.end").bounding_box()
    lane = page.locator(".lanes").bounding_box()
    end_x = handle["x"] + handle["width"] / 2
    drag(page, (end_x, handle["y"] + 5), (lane["x"] + lane["width"] * 8.5 / 10.5, handle["y"] + 5))
    page.keyboard.press("s")
    saved(page, "saved: moved the event")
    page.click("#objects button >> text=add an object")  # and one that was overlooked, drawn at two times
    page.keyboard.type("grey cat")
    page.keyboard.press("Enter")
    page.keyboard.press("Home")
    standing(page, 6.4)
    drag(page, point(page, 20, 30), point(page, 60, 90))
    page.keyboard.press(".")
    page.keyboard.press(".")
    standing(page, 8.4)
    drag(page, point(page, 40, 130), point(page, 80, 190))
    page.keyboard.press("s")
    saved(page, "saved: added “grey cat”")
    cat = asked(site, "item", video_id=name, event_num=1)["events"][0]["tracks"][-1]
    assert (cat["name"], cat["audible"], cat["times_s"]) == ("grey cat", False, [6.4, 7.4, 8.4])
    for box, true in zip(cat["boxes_xyxy_px"], ((20, 30, 60, 90), (30, 80, 70, 140), (40, 130, 80, 190)), strict=True):
        assert box == pytest.approx(true, abs=1)
    page.reload()
    page.wait_for_selector("#item:not([hidden])")
    texts = page.locator("#objects .text").all_inner_texts()
    assert "tennis ball" in texts and "green ball" not in texts
    entries = page.locator("#history .entries li")
    assert entries.count() == said + 5
    found = asked(site, "item", video_id=name, event_num=1)
    assert found["events"][0]["end_s"] == pytest.approx(8.5, abs=0.02)
    assert any("tennis ball" in one["answer"] for one in found["questions"])
    assert not any("green ball" in one["question"] + one["answer"] for one in found["questions"])
    for number in range(5):
        page.keyboard.press("u")
        page.wait_for_function(
            "count => document.querySelectorAll('#history li').length === count", arg=said + 6 + number
        )
    assert asked(site, "item", video_id=name, event_num=1)["events"][0] == {**before, "version": ANY}


def test_two_at_once_and_nothing_is_overwritten(window, site, world):
    name = sorted(world.truth)[2]
    ann, bob = window(row(name)), window(row(name), reviewer="bob")
    version = asked(site, "item", video_id=name, event_num=1)["version"]
    ann.keyboard.press("r")
    saved(ann, "saved: rejected")
    bob.keyboard.press("a")
    bob.wait_for_selector("[data-key=conflict]")
    assert "ann was faster: ann rejected" in bob.locator("[data-key=conflict]").inner_text()
    assert bob.locator("#status").inner_text() == "not saved"
    assert bob.locator("#head .badge").first.inner_text() == "rejected by a person"
    assert bob.locator("[aria-current] .dot").get_attribute("class") == "dot rejected sure"
    found = asked(site, "item", video_id=name, event_num=1)
    assert found["version"] != version and [one["who"] for one in found["history"]][-1] == "ann"
    bob.keyboard.press("a")  # having seen it
    saved(bob, "saved: accepted")
    found = asked(site, "item", video_id=name, event_num=1)
    assert found["events"][0]["verdict"] == "accepted" and [one["who"] for one in found["history"]][-2:] == [
        "ann",
        "bob",
    ]


def coloured(page, event, track, part, width):
    """Where a part of the picture, which is so wide, has the colour of a track."""
    colour = page.evaluate(
        "async ([events, key]) => (await import('/static/geometry.js')).trackColors(events).get(key)",
        [[event], f"{event['event_num']}/{track['track_id']}"],
    )
    return page.evaluate(COLOURED, [*part, width, *(int(colour[at : at + 2], 16) for at in (1, 3, 5))])


def test_boxes_follow_the_picture(window, site, world):
    name = sorted(world.truth)[1]
    page = window(row(name))
    event = asked(site, "item", video_id=name, event_num=1)["events"][0]
    (bell,) = (one for one in event["tracks"] if one["name"] == "yellow bell")
    assert [box[0] for box in bell["boxes_xyxy_px"][:2]] == [172, 153]  # fast: a box that stays would be seen
    standing(page, 6.4)
    for steps in (0, 3):  # at a box, and 0.3 s on: three pictures of ten a second
        for _ in range(steps):
            page.keyboard.press(".")
        standing(page, 6.4 + steps / 10)
        box = [a + steps / 10 * (b - a) for a, b in zip(*bell["boxes_xyxy_px"][:2], strict=True)]
        y = (box[1] + box[3]) / 2
        left, _, right, _ = coloured(page, event, bell, (0, y - 5, 256, y + 5), 256)  # higher than a dash's gap
        assert left == pytest.approx(box[0], abs=1.5) and right == pytest.approx(min(box[2], 255), abs=1.5)


def test_the_pictures_of_an_odd_file_are_found_one_by_one(window, site):
    page = window(row("odd"))
    page.wait_for_function(
        "async () => (await (await fetch('/api/timeline?video_id=odd')).json()).starts_s.length === 50"
    )
    starts_s = [start / 1000 for start in ODD.starts_ms()]
    number = max(k for k, start_s in enumerate(starts_s) if start_s <= 0.5)
    for _ in range(5):
        standing(page, starts_s[number])
        page.wait_for_timeout(150)  # until what is presented is on the screen
        picture = Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")
        assert read_number(np.rot90(np.asarray(picture), -1)) == number
        page.keyboard.press(".")
        number += 1
    assert page.evaluate("[video.videoWidth, video.videoHeight]") == list(ODD_SIZE)
    page.keyboard.press("e")
    page.keyboard.press(".")  # the time of the only box
    page.keyboard.press("Escape")
    standing(page, max(start_s for start_s in starts_s if start_s <= 1.5))
    page.wait_for_timeout(150)
    event = asked(site, "item", video_id="odd", event_num=1)["events"][0]
    _, _, right, _ = coloured(page, event, event["tracks"][0], (0, 180, 80, 190), ODD_SIZE[0])
    _, _, _, top = coloured(page, event, event["tracks"][0], (14, 100, 24, 192), ODD_SIZE[0])  # its name stands on it
    picture = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)
    rows, columns = np.nonzero((picture[..., 0] > 180) & (picture[..., 1:].max(-1) < 90))
    scale = picture.shape[1] / ODD_SIZE[0]
    for drawn, seen, true in ((right, columns.max() / scale, ODD_MARK[2]), (top, rows.min() / scale, ODD_MARK[1])):
        assert drawn == pytest.approx(true, abs=1.5) and seen == pytest.approx(true, abs=1.5)


def test_what_can_not_be_shown_or_saved_says_so(window, site, world):
    page = window(row("lost"), color_scheme="dark")
    page.wait_for_selector("#stage-says:not([hidden])")
    assert "lost" in page.locator("#stage-says").inner_text() and page.locator("#questions .q").count() > 0
    assert "1 line can’t be read" in page.locator("[data-key=problems]").inner_text()

    name = sorted(world.truth)[0]
    garbage = window(
        row(name),
        prepare=lambda page: page.route(
            "**/api/video*", lambda route: route.fulfill(body="no video", content_type="video/mp4")
        ),
    )
    garbage.wait_for_function("() => !picture.hidden && picture.naturalWidth === 256")
    assert "Decoded pictures are shown instead" in garbage.locator("#player-says").inner_text()
    garbage.keyboard.press(".")
    garbage.wait_for_function("() => picture.src.includes('time_s=0.6')")

    def read_only(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "writable": False, "why_not": "the disk is read-only"})

    looked = window(row(name), prepare=lambda page: page.route("**/api/session", read_only))
    assert "the disk is read-only" in looked.locator("[data-key=read-only]").inner_text()
    assert looked.locator("#verdicts button:enabled").all_inner_texts() == ["Previous p", "Next n"]
    looked.keyboard.press("a")
    saved(looked, "the disk is read-only")


@pytest.mark.parametrize(("size", "scheme"), [(LAPTOP, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_it_fits_the_window_and_shows_hostile_text_as_text(window, size, scheme):
    page = window(row(HOSTILE), size=size, color_scheme=scheme)
    assert page.locator("#head h2").inner_text() == "</b>" + HOSTILE
    assert page.locator("#head .id").inner_text() == HOSTILE
    standing(page, 0.5)  # its file is found by the same name
    page.keyboard.press("e")
    assert overflow_px(page) <= 0
    rows = [
        {one.bounding_box()["y"] for one in page.locator(f"{bar} button").all()} for bar in ("#verdicts", "#controls")
    ]
    assert [len(found) for found in rows] == ([2, 1] if size is PHONE else [1, 1])
    assert page.locator("#reviewer").is_visible(), "who reviews can be said everywhere"
    assert brightness(page) < 64 if scheme == "dark" else brightness(page) > 192
    if size is PHONE:
        assert page.locator("#rows").is_visible() is False
        page.click("#open-queue")
        page.wait_for_selector("#rows .row:has-text('<img src=x')")
        page.locator("#rows .row").last.click()
        page.wait_for_selector("body:not(.drawer)")
        page.wait_for_function("hostile => document.querySelector('#head .id').textContent !== hostile", arg=HOSTILE)
