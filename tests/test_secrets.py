"""Keys stay where they are, and input data stays data."""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ravst_ray.annotate.settings import absolute
from ravst_ray.annotate.step import Step, without_secrets
from ravst_ray.config.base import dump_config
from ravst_ray.datasets.places import join, resolve
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import ConfigError, StepError
from tests.fake_endpoint import FakeEndpoint, error, objects
from tests.stub_run import stub_config, write_labels
from tests.test_store import item, put

ROOT = Path(__file__).parents[1]
PLANTED = {
    "OPENAI_API_KEY": "sk-planted-51c0ffee",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+7d31",
    "HF_TOKEN": "hf_planted99",
}
EVIL_IDS = ("../escape", "..", ".", "/etc/passwd", "a/../../b", "..\\up", "%2e%2e%2fescape", "x" * 300, "a\nb", "")


def test_messages_quote_no_keys(monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHORT_KEY", "abc")
    quoted = "you sent sk-planted-51c0ffee and hf_planted99, abc"
    assert without_secrets(quoted) == "you sent $OPENAI_API_KEY and $HF_TOKEN, abc"

    class Quotes(Step):
        stage = "captions"

        def process(self, one):
            raise StepError("llm_refused", quoted)

    (failed,) = Quotes()([item("a")])
    assert failed.error.message == "you sent $OPENAI_API_KEY and $HF_TOKEN, abc"


RUN = """
import logging, sys
from pathlib import Path
from ravst_ray import cli
from ravst_ray.annotate import pipeline
from tests.stub_run import stub_steps

real = pipeline.build_steps

def steps(config):
    return {**stub_steps(Path("/nowhere")), "captions": real(config)["captions"]}

pipeline.build_steps = steps
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_planted_keys_are_found_nowhere(tmp_path):
    """A whole run that asks an endpoint, one of whose errors quotes the key: output, logs, Ray's own files."""

    def respond(request, _):
        if "cat" in request["messages"][-1]["content"]:
            return error(400, f"bad header: Bearer {PLANTED['OPENAI_API_KEY']}")
        return objects(dog=True)

    labels = json.loads(write_labels(tmp_path / "labels.json", "good1", "refused", "ill1").read_text())
    labels["database"]["refused"] = json.loads(json.dumps(labels["database"]["good1"]).replace("dog", "cat"))
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "run.py").write_text(RUN)
    with tempfile.TemporaryDirectory(prefix="ravst", dir="/tmp") as ray_files, FakeEndpoint(respond) as endpoint:
        more = ["llm.backend=openai", f"llm.base_url={endpoint.base_url}", "report_videos=1"]
        (tmp_path / "config.yaml").write_text(dump_config(stub_config(tmp_path, *more)))
        done = subprocess.run(
            [sys.executable, str(tmp_path / "run.py"), "annotate", "--config", str(tmp_path / "config.yaml")],
            cwd=ROOT,
            env={**os.environ, **PLANTED, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": ray_files, "RAVST_LOG_LEVEL": "DEBUG"},
            capture_output=True,
            timeout=800,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert set(endpoint.keys) == {f"Bearer {PLANTED['OPENAI_API_KEY']}"}, "the key was in use"
        ours = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        rays = [path for path in Path(ray_files).rglob("*") if path.is_file()]
        assert any(path.name == "index.html" for path in ours) and any(path.suffix == ".log" for path in rays)
        read = {str(path): path.read_bytes() for path in [*ours, *rays]}
    read["standard output"], read["standard error"] = done.stdout, done.stderr
    found = [(place, name) for place, data in read.items() for name, key in PLANTED.items() if key.encode() in data]
    assert found == []
    (row,) = (row for row in DatasetStore(str(tmp_path / "out")).rows("errors") if row["video_id"] == "refused")
    assert row["message"].endswith("bad header: Bearer $OPENAI_API_KEY")


def test_ids_never_become_paths_outside_the_output(tmp_path):
    store = DatasetStore(str(tmp_path / "deep" / "out"))
    store.prepare()
    for name in EVIL_IDS:
        put(store, item(name))
        put(store, item(f"{name}!", "truncated"))
    store.compact()
    assert {row["video_id"] for row in store.rows("annotations")} == set(EVIL_IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    tops = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert tops == {"_commit", "annotations", "qa", "videos", "errors"}


@pytest.mark.parametrize("folder", ["s3://bucket/videos?region=r&endpoint_override=127.0.0.1:9", "file:///base/videos"])
@pytest.mark.parametrize("name", ["%2e%2e%2fescape.mp4", "a?region=x.mp4", "a#b.mp4", "..%5cup.mp4"])
def test_names_in_a_uri_stay_in_their_folder(folder, name):
    base = resolve(folder)[1]
    assert resolve(join(folder, name))[1] == f"{base}/{name}"


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    return [
        (ast.unparse(node.func), node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "ravst_ray").rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_unpickled_and_no_environment_is_sent(path):
    text = path.read_text()
    assert "runtime_env=" not in text and '"runtime_env"' not in text, "a job's runtime_env is public"
    for name, call in calls(path):
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        assert not re.match(r"(pickle|cloudpickle|dill)\.loads?$", name)
        if name == "torch.load":
            assert options["weights_only"] == "True"
        if name in ("np.load", "numpy.load"):
            assert options.get("allow_pickle", "False") == "False"
        assert name not in ("yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system")
        assert options.get("shell") is None


def test_a_relative_output_of_a_submitted_job_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = stub_config(tmp_path, "input.videos=videos", output="out/x")
    whole = absolute(config)
    assert (whole.output, whole.input.videos) == (str(tmp_path / "out" / "x"), str(tmp_path / "videos"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match="removed with the job"):
        absolute(config)
    remote = stub_config(tmp_path, "input.videos=gs://b/v", output="s3://b/out")
    assert (absolute(remote).output, absolute(remote).input.videos) == ("s3://b/out", "gs://b/v")
