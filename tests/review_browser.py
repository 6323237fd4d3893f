"""A real Chromium at a real server of ``ravst review`` on loopback."""

import re
import subprocess
import sys
from contextlib import contextmanager

WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


@contextmanager
def serving(*options):
    """The address of a server."""
    command = [sys.executable, "-m", "ravst_ray.cli", "review", *map(str, options), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = []
        try:
            while not (found := re.search(r"http://127\.0\.0\.1:\d+/", line := process.stdout.readline())):
                said.append(line)
                assert line, "".join(said)
            yield found[0]
        finally:
            process.terminate()


@contextmanager
def opening(browser, site):
    """Opens the page; ends the test if a script failed or anything was asked of another host."""
    opened, wrong = [], []

    def open_(fragment="", prepare=lambda page: None, size=WIDE, **context):
        made = browser.new_context(viewport=size, **context)
        opened.append(made)
        page = made.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on(
            "request", lambda request: request.url.startswith((site, "data:", "blob:")) or wrong.append(request.url)
        )
        prepare(page)
        page.goto(f"{site}#{fragment}")
        page.wait_for_selector("#item:not([hidden])")
        return page

    yield open_
    for made in opened:
        made.close()
    assert not wrong


# Where the overlay has a colour within a part of the picture, in its pixels: [x1, y1, x2, y2]; null for nowhere.
COLOURED = """([x1, y1, x2, y2, wide, red, green, blue]) => {
  const canvas = document.getElementById("overlay"), scale = canvas.width / wide;
  const [left, top, width, height] = [x1, y1, x2 - x1, y2 - y1].map((one) => Math.round(one * scale));
  const pixels = canvas.getContext("2d").getImageData(left, top, width, height).data;
  const [columns, rows] = [[], []];
  for (let at = 0; at < width * height; at += 1) {
    const [r, g, b, a] = pixels.slice(4 * at, 4 * at + 4);
    if (a < 200 || Math.abs(r - red) + Math.abs(g - green) + Math.abs(b - blue) > 30) continue;
    columns.push(left + at % width);
    rows.push(top + Math.floor(at / width));
  }
  if (!rows.length) return null;
  return [Math.min(...columns), Math.min(...rows), Math.max(...columns), Math.max(...rows)].map((one) => one / scale);
}"""


def overflow_px(page):
    """How much wider than it may be anything on the page is."""
    return page.evaluate(
        "() => Math.max(...[...document.querySelectorAll('html, body, #item, #panels')]"
        ".map(one => one.scrollWidth - one.clientWidth))"
    )


def brightness(page):
    """Of the page's background, 0 to 255."""
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
