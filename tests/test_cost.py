"""The arithmetic of what a large run needs, and that README.md shows what it gives."""

from pathlib import Path

import pytest

from ravst_ray.annotate.cost import Rates, cost, main, most_gpus, table_of

README = Path(__file__).parents[1] / "README.md"


def test_hours_and_dollars():
    """1,000 videos of 36 frames at 10 frames/s; for each 3.6 s to decode, 0.3 s of Ray, 0.1 s of its tasks."""
    rates = Rates(36, decode_s=0.1, control_s=0.3, tasks_s=0.1, ground_fps=10, usd_gpu_hour=3, usd_cpu_hour=0.9)
    found = cost(1000, rates)
    assert found.gpu_hours == pytest.approx(36_000 / 10 / 3600) == pytest.approx(1.0)
    assert found.cpu_hours == pytest.approx(4_000 / 3600)
    assert found.usd == pytest.approx(3.0 + 1.0)
    assert cost(2000, rates).usd == pytest.approx(2 * found.usd)
    assert most_gpus(rates) == pytest.approx(12), "a GPU takes 3.6 s for a video, Ray 0.3 s"


def test_readme_shows_this_table():
    text = README.read_text(encoding="utf-8")
    head, *lines = table_of([5237, 1_000_000], [3, 7.6], Rates())
    assert len(lines) == 4
    for cells in (head, *lines):
        assert f"| {' | '.join(cells)} |" in text


def test_command(capsys):
    main(["--videos", "1000", "--ground-fps", "10", "--frames", "36", "--usd-gpu-hour", "3", "--usd-cpu-hour", "0"])
    row = next(line for line in capsys.readouterr().out.splitlines() if "1,000" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][:3] == ["1,000", "10", "1.0"]
