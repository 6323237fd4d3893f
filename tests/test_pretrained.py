"""Whether a model can be had is known before anything starts: directories, the hub's cache, the hub itself."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ravst_ray.cli import main
from ravst_ray.errors import ConfigError
from ravst_ray.models.pretrained import check_model

NAMES = ["org/there", "org/misspelt", "org/gated", "org/dataset", "org/broken", "org/has space"]
SCRIPT = """
import sys
from ravst_ray.models.pretrained import check_model
from ravst_ray.errors import ConfigError
for name in sys.argv[1:]:
    try:
        print(check_model(name, "grounding.detector"))
    except ConfigError as error:
        print(str(error).replace("\\n", " "))
"""


class Hub(BaseHTTPRequestHandler):
    """Answers to the question of a file as huggingface.co does."""

    def do_HEAD(self):
        name = self.path.split("/resolve/")[0].strip("/")
        status, code = {
            "org/there": (200, ""),
            "org/gated": (401, "GatedRepo"),
            "org/dataset": (404, "EntryNotFound"),
            "org/broken": (503, ""),
        }.get(name, (404, "RepoNotFound"))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def said(endpoint, cache, *names, **more):
    """What a fresh process, which reads the hub's settings at its start, says of each name."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache), **more}
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | settings
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_the_hub_is_asked_before_anything_starts(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    (there, misspelt, gated, dataset, broken, odd), _ = said(endpoint, tmp_path, *NAMES)
    server.shutdown()
    server.server_close()
    key = "grounding.detector: "
    assert there == "None"
    assert (
        misspelt
        == f"{key}there is no model {endpoint}/org/misspelt; check the name, or set HF_TOKEN where it is private"
    )
    assert gated.startswith(
        f"{key}org/gated is only for those who accepted its licence; accept its licence at {endpoint}"
    )
    assert dataset == f"{key}{endpoint}/org/dataset has no config.json, so it is no model for transformers"
    assert broken.startswith(f"{key}org/broken is not whole in the cache, and the hub can't be asked (HfHubHTTPError: ")
    assert odd.startswith(f"{key}no model directory org/has space; name an existing one, or a hub name")


def test_without_a_hub_the_sentence_says_what_to_do_and_on_a_cluster_it_warns(tmp_path):
    nowhere = "http://127.0.0.1:9"
    (line,), _ = said(nowhere, tmp_path, "org/name")
    assert "the hub can't be asked (ConnectError: " in line
    assert line.endswith("download it first (hf download org/name), or name a directory")
    (line,), warned = said(nowhere, tmp_path, "org/name", HF_HUB_OFFLINE="1", RAY_ADDRESS="10.0.0.1:6379")
    assert (
        line == "None" and "org/name is not whole in this machine's cache, and HF_HUB_OFFLINE is set; other" in warned
    )


def save(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    return folder


WHOLE = ("config.json", "preprocessor_config.json", "model.safetensors")


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        (("config.json", "pytorch_model.bin", "processor_config.json"), None),
        (("config.json", "model.safetensors"), "preprocessor_config.json;"),
        (("config.json",), r"its weights \(model.safetensors\), preprocessor_config.json;"),
        ((*WHOLE[:2], "model.safetensors.index.json", "one.safetensors"), "two.safetensors;"),
        (WHOLE[1:], "config.json"),
    ],
)
def test_a_directory_is_looked_into(tmp_path, files, lacks):
    folder = str(save(tmp_path / "model", *files))
    if lacks is None:
        return check_model(folder, "model")
    with pytest.raises(ConfigError, match=f"^model: {folder} .*{lacks}"):
        check_model(folder, "model")


def test_a_whole_snapshot_in_the_cache_counts(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--org--name"
    save(root / "refs").joinpath("main").write_text("abc")
    save(root / "snapshots" / "abc", *WHOLE[:2])
    with pytest.raises(
        ConfigError, match=r"org/name is not whole in the cache, and HF_HUB_OFFLINE is set; download it"
    ):
        check_model("org/name", "engine.model")
    save(root / "snapshots" / "abc", WHOLE[2])
    check_model("org/name", "engine.model")


def test_a_run_with_a_model_that_is_not_there_ends_before_it_starts(tmp_path, monkeypatch, capsys):
    from tests.stub_run import LAPTOP, write_labels

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(Path(__file__).parents[1])
    (tmp_path / "videos").mkdir()
    given = [f"input.annotations={write_labels(tmp_path / 'l.json', 'a')}", f"input.videos={tmp_path / 'videos'}"]
    given += [f"output={tmp_path / 'out'}", "grounding.segmenter=org/misspelt"]
    assert main(["annotate", "--config", str(LAPTOP), *given]) == 2
    assert "grounding.segmenter: org/misspelt is not whole in the cache" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
