"""What a run shows while it goes."""

import io
import time

from rich.console import Console

from ravst_ray.training.live import LiveView, line, numbers_table, sparkline

RECORDS = [
    {"step": step, "reward/mean": 1.0 + step / 10, "reward/format": 1.0, "loss": -0.5, "seconds/step": 2.0}
    for step in range(1, 13)
]


def shown(width=100, **kind):
    return Console(file=io.StringIO(), width=width, **kind)


def wait_until(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_off_a_terminal_each_step_is_a_line_told_once():
    console, known = shown(), RECORDS[:1]
    with LiveView(lambda done: known[done:], 12, console, poll_s=0.01):
        wait_until(lambda: "step 1/12" in console.file.getvalue())
        known = RECORDS[:2]
        wait_until(lambda: "step 2/12" in console.file.getvalue())
        known = RECORDS[:3]  # may come between the last look and the end
    assert console.file.getvalue().splitlines() == [
        "step 1/12: reward 1.1, format 1, loss -0.5, s 2",
        "step 2/12: reward 1.2, format 1, loss -0.5, s 2",
        "step 3/12: reward 1.3, format 1, loss -0.5, s 2",
    ]


def test_on_a_terminal_it_is_a_table_with_a_bar():
    console = shown(force_terminal=True, color_system=None)
    with LiveView(lambda done: RECORDS[done:], 12, console, poll_s=0.01):
        wait_until(lambda: "12/12" in console.file.getvalue())
    assert "last 10" in console.file.getvalue() and "step 1/12" not in console.file.getvalue()


def test_the_table_holds_now_and_the_mean_of_ten():
    console = shown()
    console.print(numbers_table(RECORDS))
    row = next(row for row in console.file.getvalue().splitlines() if row.startswith("reward"))
    assert row.split() == ["reward", "2.2", "1.75", "▁▂▂▃▄▄▅▅▆▇▇█"]  # 1.3 … 2.2


def test_a_line_leaves_out_what_is_not_known():
    assert line({"step": 3.0, "loss": 0.25}, 9) == "step 3/9: loss 0.25"


def test_sparklines_by_hand():
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([0.0, 0.0, 7.0, 7.0], width=2) == "▁█"
    assert sparkline([0.0, 2.0, 4.0, 3.0, 7.0, 7.0], width=3) == "▁▄█"  # means 1, 3.5, 7
