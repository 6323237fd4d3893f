"""Draw the pictures of the review page and of the page of predictions from the demo's output, in Chromium."""

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.chromium import launch

OUT = Path("out/demo")
PICTURE, PREDICTIONS = Path("docs/review.png"), Path("docs/predictions.png")
SIZE = {"width": 1360, "height": 850}


def _clearest(address: str) -> dict:
    """The row with most objects that are all seen from its start on, some of which sound."""

    def asked(path: str, **parameters) -> dict:
        with urlopen(f"{address}api/{path}?{urlencode(parameters)}") as answer:
            return json.load(answer)

    def seen(row: dict) -> int:
        found = asked("item", video_id=row["video_id"], event_num=row["event_num"])
        (event,) = (one for one in found["events"] if one["event_num"] == row["event_num"])
        starts = [track["times_s"][0] for track in event["tracks"]]
        return len(starts) * (set(starts) == {event["frame_times_s"][0]}) + len(found["events"])

    return max(asked("queue", limit=200)["items"], key=seen)


def _picture(address: str, folder: str) -> Image.Image:
    """The page after three verdicts, at its clearest row."""
    with sync_playwright() as driver:
        chromium = launch(driver, Path(folder))
        page = chromium.new_page(viewport=SIZE, color_scheme="light")
        page.goto(address)
        page.wait_for_selector("#item:not([hidden])")
        for key in "ara":
            page.keyboard.press(key)
            page.wait_for_timeout(1000)
        row = _clearest(address)
        page.goto(f"{address}#{urlencode({'id': row['video_id'], 'event': row['event_num']})}")
        page.reload()
        page.wait_for_function("() => stage.dataset.shown > '0'")
        page.keyboard.press("e")
        page.wait_for_timeout(2000)
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _predictions(address: str, folder: str) -> Image.Image:
    """The question about time and place that gained most."""
    with urlopen(f"{address}api/answers?{urlencode({'order': 'gained', 'task': 'AVSTR'})}") as answer:
        row = json.load(answer)["items"][0]
    with sync_playwright() as driver:
        chromium = launch(driver, Path(folder))
        page = chromium.new_page(viewport=SIZE, color_scheme="light")
        page.goto(f"{address}#{urlencode({'order': 'gained', 'task': 'AVSTR', 'id': row['qa_id']})}")
        page.wait_for_function("() => stage.dataset.shown > '0'")
        page.wait_for_timeout(2000)
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


@contextmanager
def _served(folder: Path, *options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "ravst_ray.cli", "review", *options, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield next(found[0] for line in server.stderr if (found := re.search(r"http://\S+/", line)))
        finally:
            server.terminate()


def _save(picture: Image.Image, path: Path) -> None:
    picture.quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(OUT / "dataset", Path(folder) / "demo" / "dataset", ignore=shutil.ignore_patterns("review"))
        videos = str((OUT / "world" / "videos").resolve())
        with _served(Path(folder), "demo/dataset", "--reviewer", "ann", "--videos", videos) as address:
            _save(_picture(address, folder), PICTURE)
        files = ("--predictions", "before.jsonl", "--predictions", "after.jsonl")
        asked = ("--annotations", "unseen/questions.json", "--videos", "unseen/videos")
        with _served(OUT, *files, *asked) as address:
            _save(_predictions(address, folder), PREDICTIONS)
