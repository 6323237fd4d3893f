import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravst_ray.annotate.captions import build_captions
from ravst_ray.config.annotate import LLMConfig
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.language import local as local_llm
from ravst_ray.language.local import (
    LocalLLM,
    SupervisedServer,
    check_local,
    is_healthy,
    model_fingerprint,
    server_command,
    server_environment,
)
from ravst_ray.language.smollm2 import prepare_smollm2
from ravst_ray.records import Event, EventAnnotation, Video, VideoItem

ROOT = Path(__file__).parent.parent

# A server with a child; both write their pids, the stubborn one heeds no SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
if "stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
role = "child" if "child" in sys.argv else "parent"
open(os.path.join(sys.argv[1], f"{role}.tmp"), "w").write(str(os.getpid()))
os.rename(os.path.join(sys.argv[1], f"{role}.tmp"), os.path.join(sys.argv[1], role))
if role == "parent": subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "child"])
time.sleep(600)
"""
HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200 if self.path == "/health" else 404); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# Before HEALTHY: with a child that heeds no SIGTERM, so that ending the two takes all the time that there is.
LINGERS = """
import os, pathlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])
pathlib.Path(__file__ + ".pid").write_text(str(os.getpid()))
"""
OWNER = """
import sys, time
from pathlib import Path
from ravst_ray.language.local import SupervisedServer
server = SupervisedServer(sys.argv[2:], Path(sys.argv[1]), {"PATH": ""}, grace_s=0.5)
time.sleep(600)
"""


def wait_for(condition, within_s=60.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.05)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def script(folder, text):
    path = folder / "script.py"
    path.write_text(text)
    return path


def family(folder):
    """The pids of a running ``FAMILY``."""
    wait_for(lambda: (folder / "parent").exists() and (folder / "child").exists())
    return [int((folder / role).read_text()) for role in ("parent", "child")]


def tree(pid):
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(path.parent.name))
            except OSError:
                pass
    return found


@pytest.fixture
def model_dir(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 1024}')
    (folder / "model.safetensors").write_bytes(b"12345")
    return folder


@pytest.mark.parametrize("stubborn", [(), ("stubborn",)])
def test_stop_ends_the_whole_family(tmp_path, stubborn):
    command = [sys.executable, str(script(tmp_path, FAMILY)), str(tmp_path), *stubborn]
    server = SupervisedServer(command, tmp_path / "log", {}, grace_s=0.5)
    pids = family(tmp_path)
    assert not server.wait(0.0) and not any(map(is_gone, pids))
    server.stop()
    wait_for(lambda: all(map(is_gone, pids)), 5.0)
    assert server.wait(0.0)
    server.stop()


def test_an_owner_that_is_killed_takes_the_server_along(tmp_path):
    command = [sys.executable, str(script(tmp_path, FAMILY)), str(tmp_path), "stubborn"]
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "log"), *command], cwd=ROOT)
    pids = family(tmp_path)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_for(lambda: all(map(is_gone, pids)))


def test_a_server_that_ends_is_noticed(tmp_path):
    server = SupervisedServer([sys.executable, "-c", "print('bye'); raise SystemExit(3)"], tmp_path / "log", {})
    assert server.wait(60.0)
    assert (tmp_path / "log").read_text() == "bye\nserver ended with status 3\n"
    server.stop()


def test_start_and_stop(model_dir, tmp_path, monkeypatch):
    path = str(script(tmp_path, HEALTHY))
    monkeypatch.setattr(local_llm, "server_command", lambda config, folder, port: [sys.executable, path, str(port)])
    with LocalLLM(LLMConfig(model_dir=str(model_dir))) as server:
        port = int(server.base_url.removeprefix("http://127.0.0.1:").removesuffix("/v1"))
        assert is_healthy(port)
        assert not server.died()
    assert not is_healthy(port)
    assert not server.log_path.exists()
    server.stop()


def test_a_server_whose_end_takes_a_while_has_died(model_dir, tmp_path, monkeypatch):
    """Who asked it may give up before its supervisor is done with what is left of it."""
    path = str(script(tmp_path, LINGERS + HEALTHY))
    monkeypatch.setattr(local_llm, "GRACE_S", 3.0)
    monkeypatch.setattr(local_llm, "server_command", lambda config, folder, port: [sys.executable, path, str(port)])
    with LocalLLM(LLMConfig(model_dir=str(model_dir))) as server:
        os.kill(int(Path(f"{path}.pid").read_text()), signal.SIGKILL)
        assert not server._server.wait(0.0), "not seen yet"
        assert server.died()


def test_a_server_that_lives_and_does_not_answer_has_not_died(model_dir, tmp_path, monkeypatch):
    busy = HEALTHY.replace("import http.server, sys", "import http.server, sys\nstatus = iter([200])")
    path = str(script(tmp_path, busy.replace('200 if self.path == "/health" else 404', "next(status, 503)")))
    monkeypatch.setattr(local_llm, "GRACE_S", 0.5)
    monkeypatch.setattr(local_llm, "server_command", lambda config, folder, port: [sys.executable, path, str(port)])
    with LocalLLM(LLMConfig(model_dir=str(model_dir))) as server:
        assert not server.died()


def test_a_server_that_dies_is_started_anew_but_not_for_ever(model_dir, tmp_path, monkeypatch):
    text = HEALTHY.replace("serve_forever()", "handle_request(); print('out of memory')")
    path = str(script(tmp_path, text))
    monkeypatch.setattr(local_llm, "server_command", lambda config, folder, port: [sys.executable, path, str(port)])
    with LocalLLM(LLMConfig(model_dir=str(model_dir))) as server:
        for _ in range(local_llm.MAX_RESTARTS):
            first = server.base_url
            assert server._server.wait(60.0) and server.died()
            server.revive()
            assert server.base_url != first
        assert server._server.wait(60.0)
        with pytest.raises(AbortError, match=r"died 3 times(.|\n)*out of memory"):
            server.revive()


def test_a_failed_start_shows_the_end_of_the_log(model_dir, monkeypatch):
    lines = "[print('line', n) for n in range(100)]; "
    for code, words in (
        ("raise SystemExit(1)", "ended while starting"),
        ("import time; time.sleep(600)", "start_timeout_s = 2 s"),
    ):
        command = [sys.executable, "-u", "-c", lines + code]
        monkeypatch.setattr(local_llm, "server_command", lambda *_, command=command: command)
        server = LocalLLM(LLMConfig(model_dir=str(model_dir), start_timeout_s=2.0 if "sleep" in code else 60.0))
        with pytest.raises(AbortError, match=words) as raised:
            server.start()
        assert "| line 99" in str(raised.value) and "| line 5\n" not in str(raised.value)
        assert server.log_path.exists()  # the message names it
        server.log_path.unlink()


def test_command_and_environment(model_dir, monkeypatch):
    config = LLMConfig(concurrency=20, max_model_len=2048, gpu_memory_utilization=0.4)
    monkeypatch.setattr(local_llm, "runs_on_cpu", lambda: False)
    command = server_command(config, model_dir, 1234)
    settings = dict(zip(command[4::2], command[5::2], strict=True))
    assert settings["--model"] == str(model_dir) and settings["--served-model-name"] == "local"
    assert settings["--host"] == "127.0.0.1" and settings["--port"] == "1234"
    assert settings["--max-model-len"] == "1024"  # the model's own limit
    assert settings["--max-num-seqs"] == "20" and settings["--gpu-memory-utilization"] == "0.4"
    monkeypatch.setattr(local_llm, "runs_on_cpu", lambda: True)
    assert "--enforce-eager" in server_command(config, model_dir, 1234)
    secrets = dict.fromkeys(("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN"), "sk-secret")
    kept = {"HOME": "/h", "VLLM_CPU_KVCACHE_SPACE": "4", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    environment = server_environment({**secrets, **kept})
    assert "sk-secret" not in environment.values() and environment["HF_HUB_OFFLINE"] == "1"
    assert environment["TOKENIZERS_PARALLELISM"] == "false" and "OMP_NUM_THREADS" not in environment
    assert environment["HOME"] == "/h" and environment["VLLM_CPU_KVCACHE_SPACE"] == "4"


def test_fingerprint_knows_models_not_places(model_dir, tmp_path):
    twin = shutil.copytree(model_dir, tmp_path / "twin")
    assert model_fingerprint(twin) == model_fingerprint(model_dir)
    (twin / "model.safetensors").write_bytes(b"123456")
    assert model_fingerprint(twin) != model_fingerprint(model_dir)


def test_a_missing_model_is_named_before_the_start(tmp_path):
    with pytest.raises(ConfigError, match="/no/such/model"):
        check_local(LLMConfig(model_dir="/no/such/model"))
    with pytest.raises(ConfigError, match="a config"):
        LocalLLM(LLMConfig(model_dir=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.faults
def test_a_ray_actor_that_ends_takes_the_server_along(tmp_path, local_ray):
    import ray

    class Owner:
        def __init__(self, command, log):
            self.server = SupervisedServer(command, log, dict(os.environ), grace_s=0.5)

        def ready(self):
            return True

    for name, end in (("killed", ray.kill), ("released", lambda actor: None)):
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, str(script(folder, FAMILY)), str(folder)]
        actor = (
            ray.remote(Owner)
            .options(runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
            .remote(command, folder / "log")
        )
        ray.get(actor.ready.remote())
        pids = family(folder)
        end(actor)
        del actor
        wait_for(lambda pids=pids: all(map(is_gone, pids)))


@pytest.mark.slow
def test_smollm2_is_unpacked_once(tmp_path):
    folder = prepare_smollm2(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    assert (folder / "model.safetensors").stat().st_size == 269_060_552  # 134.5 M bfloat16 weights and a header
    assert "quantization_config" not in (folder / "config.json").read_text()
    assert (folder / "chat_template.jinja").exists()
    before = (folder / "config.json").stat().st_mtime_ns
    assert prepare_smollm2(tmp_path) == folder and (folder / "config.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_server_names_objects_and_leaves_nothing_behind(tmp_path):
    step = build_captions(LLMConfig(model_dir="smollm2", start_timeout_s=600, timeout_s=300), tmp_path / "c.sqlite")
    events = tuple(
        EventAnnotation(Event(n, 0.0, 1.0, "x", None, text))
        for n, text in enumerate(("a black cat meows at a wooden table", "a dog barking"), 1)
    )
    (done,) = step([VideoItem(Video("v", "v.mp4", 1.0, ()), annotations=events)])
    server = step._server
    pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _serves(pid, server)]
    assert pids and done.error is None
    family_pids = sorted({one for pid in pids for one in tree(pid)})
    step.close()
    wait_for(lambda: all(map(is_gone, family_pids)), 30.0)
    assert ("black cat", True) in [(thing.name, thing.audible) for thing in done.annotations[0].objects]
    assert ("dog", True) in [(thing.name, thing.audible) for thing in done.annotations[1].objects]
    assert done.stats["tokens/prompt"] > 200 and done.stats["llm_requests"] >= 2


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
def test_the_real_server_dies_with_an_owner_that_is_killed(tmp_path):
    code = (
        "import sys, time\nfrom ravst_ray.language.local import LocalLLM\n"
        "from ravst_ray.config.annotate import LLMConfig\n"
        "server = LocalLLM(LLMConfig(model_dir='smollm2', start_timeout_s=600), sys.argv[1])\nserver.start()\n"
        "print(server.base_url, flush=True)\ntime.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    base_url = owner.stdout.readline().strip()
    port = base_url.rpartition(":")[2].removesuffix("/v1")
    pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and f"--port\0{port}\0" in _command_line(pid)]
    family_pids = sorted({one for pid in pids for one in tree(pid)})
    assert len(family_pids) >= 2  # the server and its engine
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_for(lambda: all(map(is_gone, family_pids)), 60.0)


def _serves(pid, server):
    port = server.base_url.rpartition(":")[2].removesuffix("/v1")
    return f"--port\0{port}\0" in _command_line(pid)


def _command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
