"""What ``ravst COMMAND --help`` says."""

from __future__ import annotations

ANNOTATE = """\
Turn videos and event labels into a dataset of objects, box tracks and questions.

  ravst annotate --config jobs/configs/annotate_laptop.yaml \\
      input.annotations=labels.json input.videos=videos/ output=out/run1

The same command again goes on where the last one ended, and repeats only errors that may pass.
Exit status: 0 the run completed (even with errors rows), 1 it was aborted, 2 the configuration is bad.
"""
STATUS = """\
Tell how an annotation run stands, while it runs and after it: done, failed by reason, rate, expected finish.

  ravst status out/run1
  ravst status s3://bucket/run1 --json

State: running, finished, stopped (Ctrl-C, ray job stop), aborted (with the error), died (killed, or its node was lost).
"""
RETRY = """\
Do failed videos of an annotation run again, with the configuration in its output directory.

  ravst retry out/run1
  ravst retry out/run1 decode.deadline_s=600 --reason decode_deadline llm_unreachable

`ravst status` lists the reasons. An errors row stays until the new result of its video is committed.
Exit status: as of ravst annotate.
"""
EXPORT = """\
Write a finished dataset into a folder that can be handed on, with a dataset card.

  ravst export out/run1 --to out/mine --format hf --videos
  ravst export s3://bucket/run1 --to s3://bucket/shards --format webdataset --statuses accepted suspect

Formats: ravst (R-AVST's published JSON), hf (a folder for datasets.load_dataset), coco (JSON for pycocotools, boxes and
masks on tracks), webdataset (tar shards). What people have said in `ravst review` counts.
DIR is whole once export.json is in it; an export that fails leaves nothing.
"""
TOYWORLD = """\
Write synthetic but real videos (H.264 + AAC) with sounding objects, UnAV-100 labels and the exact truth.

  ravst toyworld --out out/world --videos 12 --seed 1
  ravst toyworld --out out/hard --videos 24 --hard
  ravst toyworld --out out/heard --videos 24 --no-cues

Hard scenes have several objects of a name of which one sounds, cuts, pan and zoom, sources that are off screen or
seldom seen, events that overlap, a noise floor and clicks; the truth says which object sounds, and each scene's traits.
Without cues the pictures are those of a world at rest: when and which object sounds, only its sound tells.
"""
REVIEW = """\
Look at annotations in a browser, and say what is right: a page with the videos, their boxes and questions.

  ravst review out/demo
  ravst review s3://bucket/run1 --videos s3://bucket/videos --reviewer ann usd_per_hour=30
  ravst review out/demo --host 0.0.0.0 --token "$(openssl rand -hex 16)"

Verdicts are added to OUT/review/; the rows themselves stay as they are. Several people may review at once.

Or look at a model's answers beside the truth: boxes on the video, intervals over its sound, each part of the reward.

  ravst review --predictions out/predictions.jsonl --annotations questions.json --videos videos
  ravst review --predictions before.jsonl --predictions after.jsonl --annotations questions.json --videos videos

Two files are compared question by question: what was won and lost, by any part. Lines are {"id", "prediction"} (as
ravst predict writes them) or {"id", "completion"}, several of one id allowed; they are scored as in ravst score, with
the same key=value settings (names.vectors=null, weights, …). Broken and foreign lines are counted and left out.
Settings: ravst_ray/config/review.py, classes ReviewConfig and PredictionsConfig.
"""
SCORE = """\
Score completions with the reward of their tasks.

  ravst score --completions completions.jsonl --annotations test.json --out scored.jsonl

In: lines {"id", "completion"}. Out: the same with "reward", its parts and the malformations.
"""
PREDICT = """\
Let a video-LLM answer the questions of a dataset (vLLM on CPU or GPU, under Ray Data).

  ravst predict --model Qwen/Qwen2.5-VL-7B-Instruct --annotations test.json --videos videos/ --out answers.jsonl
  ravst predict --model DIR --annotations test.json --videos videos/ --out answers.jsonl \\
      sampling.max_tokens=2048 prompt.box_step_s=2 actors.llm.max=4

  ravst predict --benchmark vsi-bench --model DIR --annotations test.jsonl --videos VSI-Bench/ --out vsi.jsonl

Out: lines {"id", "prediction"} for `ravst evaluate`. The same command again asks only what has no answer yet,
and with --dry-run tells how many questions that are, and whether their videos are there.
A benchmark (vsi-bench, sti-bench, v-star) is asked with its own prompts, frames and sampling; key=value changes them.
Settings: ravst_ray/config/video_llm.py, class PredictConfig.
"""
TRAIN = """\
Tune a video-LLM by GRPO: vLLM actors sample groups, a TRL learner under Ray Train updates the policy.

  ravst train --config jobs/configs/train_laptop.yaml max_steps=20 output=out/train
  ravst train --config jobs/configs/train_laptop.yaml max_steps=20 output=out/train --resume
  ravst train --config jobs/configs/train_laptop.yaml --dry-run

Out: metrics.jsonl, tensorboard/, rollouts/*.parquet, checkpoints/ and, at the end, model/ for `ravst predict` and
report.html. Settings: ravst_ray/config/train.py, class TrainConfig.
"""
EXPORT_MODEL = """\
Write the policy of a training run's checkpoint as a plain Hugging Face directory, an adapter merged into it.

  ravst export-model out/train
  ravst export-model s3://bucket/run1 --best --to models/best

A run that has ended has written its last policy to RUN/model already.
"""
TRAIN_SFT = """\
Fine-tune a video-LLM on a dataset's true answers: the baseline of GRPO, and its start.

  ravst train-sft --config jobs/configs/sft_laptop.yaml sft.epochs=3 output=out/sft

Out: metrics.jsonl, checkpoints/ and model/ for `ravst train` and `ravst predict`; --resume goes on from the last
checkpoint, --dry-run tells steps, resources and places before anything starts. Settings: ravst_ray/config/sft.py.
"""
EVALUATE = """\
Metrics of predictions by task, beside trivial answers and the papers' rows; or on a benchmark.

  ravst evaluate --predictions predictions.jsonl --annotations test.json --out out/eval
  ravst evaluate --benchmark v-star --predictions v.jsonl --annotations V_STaR_test.json --out out/v-star \\
      judge.base_url=http://host:8000/v1

In: lines {"id", "prediction"}. Out: metrics.json, tables (Markdown, HTML) and plots.
"""

MAKE_STR = """\
Make questions by rule, with their answers and reference graphs, from scenes whose objects are tracked or measured.

  ravst make-str input.scenes=out/world input.format=toy output=out/str
  ravst make-str input.scenes=train.json input.format=tao output=out/str_tao exclude=[sti_bench.txt]
  ravst make-str --config jobs/configs/make_str.yaml input.scenes=training/ input.format=kitti output=out/str_kitti

Formats: toy (ravst toyworld), ravst (output of ravst annotate), tao (its JSON file), kitti (folder with label_02/ and
calib/), scannet (JSON of VSI-Bench's meta data). Files in exclude list ids of scenes, one a line.
Out: questions.parquet, questions.jsonl, vsi_bench.jsonl (VSI-Bench's kinds, in its format), summary.json, README.md,
index.html. The same command again goes on where the last one ended. Settings: ravst_ray/config/make_str.py, class
MakeStrConfig.
"""
