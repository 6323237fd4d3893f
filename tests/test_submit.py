"""``ray job submit`` as the README has it: a head with token authentication on loopback, and Ray's own command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from ravst_ray.annotate.status import read_status
from ravst_ray.datasets.lock import LOCK
from ravst_ray.language.local import free_port
from tests.proc import command_line, environment, pids
from tests.short_world import LOOPBACK, answering, job, write_short_world
from tests.test_pipeline import ROOT, content

# The first test's time holds the starts of the head.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1000)]

VIDEOS = 5
WITHIN_S = 580.0
BIN = Path(sys.executable).parent
KEY = "the-nodes-key"
OWN = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OPENAI_", "PYTHONPATH"))}
"""The environment without what would reach Ray or a language model by another way than the README's."""
HERE = OWN | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
"""Of a run without a cluster."""


def answers(asked: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(asked, timeout=30.0) as answer:
            return answer.status == 200
    except OSError:  # nobody listens, or says 503
        return False


class Head:
    """A cluster of one node on loopback, as ``cluster.yaml`` starts its head, and a user who has the token to it."""

    STARTS = 3
    START_S = 90.0
    """Seconds until a start must take jobs. Ray itself gives up after 30 s without its agent, as on a busy machine."""

    def __init__(self, home: Path, ray_files: Path):
        command = [BIN / "ray", "get-auth-token", "--generate"]
        subprocess.run(command, env=OWN | {"HOME": str(home)}, check=True, capture_output=True, timeout=WITHIN_S)
        token = home / ".ray" / "auth_token"
        token.chmod(0o600)  # Ray lets everybody read it
        self.user = OWN | {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self._token = token.read_text().strip()
        self._home, self._ray_files, self.process = home, ray_files, None

    def start(self) -> None:
        """Until it takes jobs."""
        for number in range(self.STARTS):
            # With nothing of the last start, neither ports nor files: what is left of it may still hold them.
            log = self._ray_files / f"{number}.log"
            self._start(self._ray_files / str(number), log)
            if self._takes_jobs(log):
                return
            self.end()
        logs = [*self._ray_files.glob("*.log"), *self._ray_files.glob("*/session_2*/logs/dashboard_agent.log")]
        raise AssertionError("\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in sorted(logs)))

    def _start(self, ray_files: Path, log: Path) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        path = f"{BIN}{os.pathsep}{OWN['PATH']}"  # a node's `python` is the one with the project's libraries
        of_node = {"PATH": path, "OPENAI_API_KEY": KEY, "RAY_JOB_STOP_WAIT_TIME_S": "300", **LOOPBACK}
        start = [BIN / "ray", "start", "--head", "--block", "--port=0", "--node-ip-address=127.0.0.1", "--num-cpus=3"]
        dashboard = ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
        ports = ["--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}"]
        files = [f"--temp-dir={ray_files}", "--disable-usage-stats"]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*start, *dashboard, *ports, *files], env=self.user | of_node, cwd=self._home, stdout=out, stderr=out
            )

    def _takes_jobs(self, log: Path) -> bool:
        """Whether it took a first one. A dashboard answers before that, and without any agent that could run one."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        first = urllib.request.Request(f"{self.address}/api/jobs/", b'{"entrypoint": "true"}', headers)
        until = time.monotonic() + self.START_S
        while self.process.poll() is None and time.monotonic() < until:
            if "Ray runtime started" in log.read_text() and answers(first):
                return True
            time.sleep(0.5)
        return False

    def ray(self, *arguments, cwd=ROOT, environment=None, timeout=WITHIN_S):
        """``ray job …``; gives what ``subprocess.run`` gives, the output as one text."""
        command = [BIN / "ray", "job", arguments[0], "--address", self.address, *arguments[1:]]
        return subprocess.run(
            command, cwd=cwd, env=environment or self.user, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout,
        )  # fmt: skip

    def submit(self, *command, cwd=ROOT, options=()):
        """``ray job submit --working-dir . -- COMMAND``."""
        return self.ray("submit", "--working-dir", ".", *options, "--", *map(str, command), cwd=cwd)

    def grounding(self) -> list[int]:
        """Pids of the actors that ground."""
        return [
            pid for pid in pids() if "GroundActor" in command_line(pid) and f"HOME={self._home}" in environment(pid)
        ]

    def end(self) -> None:
        """``ray start --block`` ends what it started."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(100.0)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with tempfile.TemporaryDirectory(prefix="ravst", dir="/tmp", ignore_cleanup_errors=True) as ray_files:
        made = Head(tmp_path_factory.mktemp("home"), Path(ray_files))
        try:
            made.start()
            yield made
        finally:
            made.end()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("short")
    write_short_world(root, VIDEOS)
    return root


def dataset(output):
    """What a run gave, whichever port its language model listened on."""
    found = content(output)
    for row in found["annotations"]:
        row["provenance"] = [(name, value) for name, value in row["provenance"] if name != "llm"]
    return found


@pytest.fixture(scope="module")
def local(world, tmp_path_factory):
    """The output of the same command without a cluster."""
    output = tmp_path_factory.mktemp("local") / "out"
    with answering() as (endpoint, _):
        command = job(endpoint, world / "labels.json", world / "videos", output)
        environment = HERE | {"OPENAI_API_KEY": "mine"}
        pipe = subprocess.PIPE
        done = subprocess.run(
            [BIN / command[0], *command[1:]], cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT,
            text=True, timeout=WITHIN_S,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found = content(output)
    assert len({row["video_id"] for row in found["annotations"]}) == VIDEOS and not found["errors"]
    assert any(row["tracks"] for row in found["annotations"])
    return output


def test_a_submitted_run_gives_the_dataset_of_a_local_one(head, world, local, tmp_path):
    with answering() as (endpoint, _):
        done = head.submit(*job(endpoint, world / "labels.json", world / "videos", tmp_path / "out"))
    assert done.returncode == 0, done.stdout
    assert f"{VIDEOS} videos done, 0 failed" in done.stdout, "the job's log comes to who submitted it"
    assert dataset(tmp_path / "out") == dataset(local)
    assert set(endpoint.keys) == {f"Bearer {KEY}"}, "the nodes' own"
    assert KEY not in done.stdout + head.ray("list").stdout


def test_inputs_of_the_working_directory(head, world, local, tmp_path):
    """Relative paths are meant within what was uploaded."""
    work = tmp_path / "work"
    for name in ("ravst_ray", "jobs"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(world, work / "mine")
    with answering() as (endpoint, _):
        done = head.submit(*job(endpoint, "mine/labels.json", "mine/videos", tmp_path / "out"), cwd=work)
    assert done.returncode == 0, done.stdout
    assert dataset(tmp_path / "out") == dataset(local)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("output=out/here", "a submitted job's working directory is removed with the job; give s3://"),
        ("grounding.box_treshold=0.5", "box_treshold"),
        ("input.videos=nowhere/videos", "nowhere/videos"),
    ],
    ids=["relative output", "unknown key", "missing input"],
)
def test_a_job_that_can_not_run_says_why(head, world, tmp_path, change, why):
    with answering() as (endpoint, _):
        done = head.submit(*job(endpoint, world / "labels.json", world / "videos", tmp_path / "out", change))
    assert done.returncode == 1, done.stdout
    assert why in done.stdout
    assert "Traceback" not in done.stdout, "a sentence"
    assert endpoint.requests == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changed", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}], ids=["no", "another"]
)
def test_without_the_token_nobody_submits(head, tmp_path, changed):
    stranger = {name: value for name, value in head.user.items() if name != "RAY_AUTH_TOKEN_PATH"}
    stranger |= {"HOME": str(tmp_path), **changed}
    command = ["submit", "--working-dir", ".", "--", "touch", str(tmp_path / "done")]
    before = head.ray("list").stdout.count("JobDetails(")
    refused = head.ray(*command, environment=stranger)
    assert refused.returncode != 0 and "token" in refused.stdout.lower(), refused.stdout
    assert head.ray("list").stdout.count("JobDetails(") == before
    assert not (tmp_path / "done").exists()


LOOK = """
import json, os, ravst_ray
files = [os.path.join(folder, name) for folder, _, names in os.walk(".") for name in names]
print("FOUND " + json.dumps({"here": os.getcwd(), "code": ravst_ray.__file__, "files": files,
    "bytes": sum(os.path.getsize(name) for name in files if "/checkpoints/" not in name)}))
"""


def test_what_goes_along(head):
    done = head.submit("python", "-c", f"exec({LOOK!r})")
    assert done.returncode == 0, done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    found = json.loads(line.removeprefix("FOUND "))
    assert found["here"] != str(ROOT) and found["code"].startswith(found["here"]), "the job runs what was uploaded"
    tops = {name.split("/")[1] for name in found["files"]}
    assert {"ravst_ray", "jobs", "pyproject.toml"} <= tops
    assert not tops & {".venv", ".git", ".ci", "out", "tests", ".cache"}
    assert found["bytes"] < 5e6, "unpacked, beside the toy world's models"


def test_a_stopped_job_goes_on_where_it_was(head, world, local, tmp_path):
    """`ray job stop` gives it the time to let go of the output; the same command does what is left.

    What grounds is stopped when something is committed, so that something is left.
    """
    output = tmp_path / "out"
    with answering() as (endpoint, _):
        command = job(endpoint, world / "labels.json", world / "videos", output)
        done = head.submit(*command, options=["--no-wait", "--submission-id", "stopped"])
        assert done.returncode == 0, done.stdout
        until = time.monotonic() + WITHIN_S
        while not list((output / "_commit" / "units").glob("*.json")):
            assert time.monotonic() < until, head.ray("logs", "stopped").stdout
            time.sleep(0.02)
        for pid in head.grounding():
            os.kill(pid, signal.SIGSTOP)
        assert head.ray("stop", "stopped").returncode == 0
        assert "was stopped" in head.ray("status", "stopped").stdout
        assert "interrupted; the same command goes on from here" in head.ray("logs", "stopped").stdout
        status = read_status(str(output))
        assert status.state == "stopped" and 0 < status.done < VIDEOS and status.left == VIDEOS - status.done
        assert not (output / LOCK).exists()
    with answering() as (endpoint, _):
        done = head.submit(*job(endpoint, world / "labels.json", world / "videos", output))
    assert done.returncode == 0, done.stdout
    assert f"{status.done} of {VIDEOS} videos are left as they are" in done.stdout
    assert dataset(output) == dataset(local)


def test_the_training_job_tells_what_it_would_do(head, world, local):
    """The dry run of a training on the dataset: the plan that it tells here."""
    places = [f"data.annotations={local}/ravst_train_QA.json", f"data.videos={world}/videos"]
    command = ["python", "jobs/train_grpo.py", "--config", "jobs/configs/train_laptop.yaml", "--dry-run", *places]
    pipe = subprocess.PIPE
    here = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, env=HERE, stdout=pipe, text=True, timeout=WITHIN_S
    )
    # Of the output, each tells its own working directory and the room that its disk has by then.
    plan = [line for line in here.stdout.splitlines() if not line.startswith("output: ")]
    assert here.returncode == 0 and any(line.startswith("prompts: at most") for line in plan), here.stdout
    done = head.submit(*command)
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if line in plan] == plan
