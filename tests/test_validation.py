"""Held-out questions while a run goes on: what their answers are worth, which step was best, when a run ends."""

import asyncio
import json

import pytest

from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.core.answers import ObjectAnswer, render
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import ConfigError, StepError
from ravst_ray.records import QAPair
from ravst_ray.reports.training_report import write_training_report
from ravst_ray.training.records import RunRecord
from ravst_ray.training.validation import Validation, best_row, read_rows
from tests.test_rollout import RIGHT, manager, run  # noqa: F401


def config_of(*more):
    given = ["data.annotations=a", "data.videos=v", "output=o", "model=m", "eval_every=2", "validation.annotations=b"]
    return load_config(TrainConfig, None, [*given, *more])


def task_about(name, start_s, end_s):
    answer = render([ObjectAnswer("red ball", (start_s, end_s))])
    return VideoTask(name, f"{name}.mp4", 10.0, (QAPair(f"{name}/1/AVTR/0", name, 1, "AVTR", "When?", answer),))


def said(**intervals):
    return {f"{name}/1/AVTR/0": render([ObjectAnswer("red ball", one)]) for name, one in intervals.items()}


def test_answers_are_marked_as_evaluate_marks_them_beside_the_best_trivial_answer():
    one = Validation(config_of(), [task_about("a", 0.0, 4.0), task_about("b", 5.0, 10.0)])
    row = one.mark(0, said(a=(0.0, 2.0))).row  # b isn't answered
    # tIoU 2 / 4 and 0; format 1 and 0, temporal weighs 1.
    assert row["AVTR/m_tIoU"] == 25.0 and row["AVTR/R1@0.3"] == 50.0 and row["reward"] == (1 + 0.5 + 0) / 2
    # The whole video: 4 / 10 and 5 / 10; the middle half, 2.5 to 7.5: 1.5 / 7.5 and 2.5 / 7.5; the other's answer: 0.
    assert row["trivial/AVTR/m_tIoU"] == 45.0


def test_the_best_is_told_and_patience_ends_the_run():
    one = Validation(config_of("validation.metric=AVTR/m_tIoU", "validation.patience=2"), [task_about("a", 0.0, 4.0)])
    ends_s = {0: 1.0, 2: 2.0, 4: 2.0, 6: 3.0, 8: 1.0, 10: 3.0}
    found = [one.mark(step, said(a=(0.0, end_s))) for step, end_s in ends_s.items()]
    assert [each.best for each in found] == [True, True, False, True, False, False]
    assert [each.stop for each in found] == [False] * 5 + [True]
    # A run that went on from step 6 knows what was before, and marks step 8 once.
    again = Validation(config_of("validation.patience=2"), one.tasks, [each.row for each in found[:4]])
    assert not again.mark(8, said(a=(0.0, 1.0))).stop
    assert again.mark(8, said(a=(0.0, 1.0))).stop is False


def test_a_metric_that_these_questions_lack_is_refused_with_those_that_they_have():
    with pytest.raises(ConfigError, match=r"validation\.metric: 'AVSR/m_vIoU' is none of .*: reward, AVTR/m_tIoU"):
        Validation(config_of("validation.metric=AVSR/m_vIoU"), [task_about("a", 0.0, 4.0)])
    with pytest.raises(ConfigError, match=r"eval_every needs validation\.annotations"):
        load_config(TrainConfig, None, ["data.annotations=a", "data.videos=v", "output=o", "eval_every=2"])


def test_rows_are_read_up_to_a_step_and_a_torn_one_is_left_out():
    text = '{"step": 0, "reward": 1}\n{"step": 2, "reward": 3}\n{"step": 4, "reward": 9}\n{"st'
    rows = read_rows(text, 2)
    assert [row["step"] for row in rows] == [0, 2]
    assert best_row([*rows, {"step": 1}], "reward")["step"] == 2


def test_the_engines_answer_greedily_and_what_cannot_be_asked_is_missing(manager):  # noqa: F811
    class Examiner:
        tasks = (task_about("x", 0.0, 4.0), task_about("y", 0.0, 4.0))

        def mark(self, step, said):
            return step, said

    async def work():
        one = manager(["a", "b"], "max_steps=1")
        one._examiner = Examiner()
        one._held_out._tasks = one._examiner.tasks
        decode = one._decode

        async def shown(task):
            if task.video_id == "y":
                raise StepError("not_a_video", "no video")
            return await decode(task)

        one._held_out._clips._decode = shown
        await one.start()
        first, second = await asyncio.gather(one.validated(0, 0), one.validated(0, 0))
        return first, second

    first, second = run(work())
    assert first == second == (0, {"x/1/AVTR/0": "nothing"})  # the stub's first answer


def test_the_report_shows_them_beside_the_trivial_answers(tmp_path):
    record = RunRecord(tmp_path, [], 0, {})
    for step, value in ((0, 40.0), (2, 71.25), (4, 60.0)):
        if step:
            record.write(step, {"reward/mean": 1.0, "seconds/step": 2.0, "seconds/validation": 1.0})
        beside = {"trivial/AVTR/m_tIoU": 45.0}
        record.validated({"step": step, "reward": 1 + value / 100, "AVTR/m_tIoU": value, **beside})
    page = write_training_report(tmp_path).read_text()
    section = page[page.index('id="held-out"') : page.index('id="sampling"')] if 'id="sampling"' in page else page
    assert "by reward step 2 is the best" in section
    for text in ("71.2", "45", "held-out questions"):
        assert text in page
    again = RunRecord(tmp_path, [], 2, {})
    again.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "validation.jsonl").read_text().splitlines()] == [0, 2]
