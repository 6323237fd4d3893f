"""What can happen to an annotation run on a cluster, done on purpose to real ones.

Processes, a node, the head, the driver and the language model's endpoint are lost in mid-run, a decoder hangs, a video
ends whatever decodes it, a disk is full, an object store is busy. Every run ends, by itself or by the same command, in
the dataset of an undisturbed one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from ravst_ray.annotate.status import read_status
from ravst_ray.datasets.lock import LOCK
from tests.proc import ancestor, command_line, environment, open_files, pids
from tests.s3_server import BUCKET, s3_server
from tests.short_world import LOOPBACK, answering, write_short_world
from tests.test_pipeline import LAPTOP, ROOT, content

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(1500)]

VIDEOS = 5
WITHIN_S = 200.0
"""For a run or a part of it; a test's timeout holds three of them, the baseline and the start of the cluster."""
START_ATTEMPTS = 3
GPU_NODE = {"num_cpus": 1, "num_gpus": 1}
DRIVERS = []


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """Of nodes and drivers: the code and the models of this tree, and loopback addresses that mean what they say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name, value in {"PYTHONPATH": str(ROOT), **LOOPBACK}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def no_driver_stays():
    """Those that a failed test left would keep the nodes busy."""
    yield
    while DRIVERS:
        driver = DRIVERS.pop()
        driver.kill()
        driver.wait()


@pytest.fixture(scope="module")
def short_world(tmp_path_factory):
    """Videos of three seconds with captions."""
    root = tmp_path_factory.mktemp("short")
    write_short_world(root, VIDEOS)
    return root


@contextmanager
def started():
    """A cluster of a head, a node that decodes and a node with a (logical) GPU, on loopback."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster()
    try:
        add_node(cluster, num_cpus=1, include_dashboard=False, dashboard_agent_listen_port=0)
        add_node(cluster, num_cpus=2)
        add_node(cluster, **GPU_NODE)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster, **kind):
    """Ray gives its own processes 30 s to start, which a busy machine may exceed: then anew."""
    before = cluster.list_all_nodes()
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            cluster.add_node(node_ip_address="127.0.0.1", **kind)
            return
        except Exception as error:  # Ray's bare one, or that nobody heard of the node
            if attempt == START_ATTEMPTS or "timed out" not in str(error).lower():
                raise
            for node in cluster.list_all_nodes():
                if node not in before:
                    cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def endpoint():
    """One for all runs."""
    with answering() as (server, _):
        yield server


@pytest.fixture(scope="module")
def s3():
    """An object store; whoever starts after it, the nodes of the cluster among them, finds it in the environment."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def cluster(s3):
    """One for all runs that leave it whole."""
    with started() as made:
        yield made


@pytest.fixture(scope="module")
def command(short_world, endpoint):
    """The command line of a run into a directory."""

    def make(output, *more):
        settings = {
            "input.annotations": short_world / "labels.json",
            "input.videos": short_world / "videos",
            "output": output,
            "filter.max_events": 9,
            "llm.backend": "openai",
            "llm.model_dir": "null",
            "llm.base_url": endpoint.base_url,
            "llm.concurrency": 1,  # so that captions are read two videos at a time
            "llm.max_retries": 1,
            "llm.timeout_s": 500,  # longer than an answer is ever held back
            "decode.deadline_s": 900,  # ... or a decoder stopped
            "actors.ground": "{min: 1, max: 1, num_cpus: 0.1, num_gpus: 1}",
            "report_videos": 0,
        }
        places = [f"{key}={value}" for key, value in settings.items()]
        return [sys.executable, "jobs/annotate.py", "--config", str(LAPTOP), *places, *more]

    return make


def start(cluster, command):
    """A driver, as a job submitted to the cluster would be."""
    own = {**os.environ, "RAY_ADDRESS": cluster.address, "OPENAI_API_KEY": "none"}
    pipe = subprocess.PIPE
    driver = subprocess.Popen(command, cwd=ROOT, env=own, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    DRIVERS.append(driver)
    return driver


def finish(process, status=0, within_s=WITHIN_S):
    said = process.communicate(timeout=within_s)[0]
    assert process.returncode == status, said
    return said


@pytest.fixture(scope="module")
def baseline(cluster, command, tmp_path_factory):
    """The dataset of an undisturbed run."""
    output = tmp_path_factory.mktemp("baseline") / "out"
    finish(start(cluster, command(output)))
    found = content(output)
    assert len({row["video_id"] for row in found["annotations"]}) == VIDEOS and not found["errors"]
    assert any(row["tracks"] for row in found["annotations"]) and found["qa"]
    return found


def wait_for(condition, process, within_s=WITHIN_S):
    """Give what the condition gives once it is something, while the process runs."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "not in time"
        time.sleep(0.02)
    return found


def committed(output):
    return list((output / "_commit" / "units").glob("*.json"))


@contextmanager
def halfway(cluster, command, output):
    """A run in its middle: something is committed, and the decoder is stopped in a video until the end of the block."""
    process = start(cluster, command)
    held, seen = 0, set()
    try:
        held = wait_for(lambda: decoding_another(cluster, seen), process)
        wait_for(lambda: committed(output), process)
        yield process
    finally:
        if held:
            with suppress(ProcessLookupError):
                os.kill(held, signal.SIGCONT)


@contextmanager
def reading(cluster, endpoint, command):
    """A run that reads captions: the last answer is held back until the end of the block.

    The baseline asked about every caption once, and so does each run.
    """
    behaviour = endpoint.respond
    behaviour.answers = len(endpoint.requests) + len(set(endpoint.captions())) - 1
    behaviour.go_on.clear()
    try:
        process = start(cluster, command)
        wait_for(lambda: len(endpoint.requests) > behaviour.answers, process)
        yield process
    finally:
        behaviour.answers = 10**9
        behaviour.go_on.set()


def processes(cluster, title, generations):
    """Pids whose command line holds ``title``, so many generations below a raylet of the cluster."""
    raylets = {info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes["raylet"]}
    return [pid for pid in pids() if title in command_line(pid) and ancestor(pid, generations) in raylets]


def decoding(cluster, ending=".mp4"):
    """A decoder's child in the middle of a video. It is stopped before it is looked at, and so it stays there."""
    return decoder_with(cluster, lambda names: any(name.endswith(ending) for name in names))


def decoding_another(cluster, seen):
    """As :func:`decoding`, in another video than one in which it was ``seen`` before, which is decoded by now."""

    def wanted(names):
        before = seen - names
        seen.update(names)
        return bool(names and before)

    return decoder_with(cluster, wanted)


def decoder_with(cluster, wanted):
    """A decoder's child whose open videos are wanted, stopped; None: there is none, and each goes on."""
    for pid in processes(cluster, "ravst_ray/media/boot.py", 2):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            if wanted({name for name in open_files(pid) if name.endswith(".mp4")}):
                return pid
            os.kill(pid, signal.SIGCONT)
    return None


def test_a_decoder_that_is_killed(cluster, command, baseline, tmp_path):
    """Its video is decoded once more, by another."""
    process = start(cluster, command(tmp_path / "out"))
    os.kill(wait_for(lambda: decoding(cluster), process), signal.SIGKILL)
    assert "trying once more" in finish(process)
    assert content(tmp_path / "out") == baseline


def test_an_actor_that_is_killed(cluster, command, baseline, tmp_path):
    """The one that grounds."""
    output = tmp_path / "out"
    with halfway(cluster, command(output), output) as process:
        (victim,) = processes(cluster, "GroundActor", 1)
        os.kill(victim, signal.SIGKILL)
    finish(process)
    assert content(output) == baseline


@pytest.mark.parametrize(
    ("whose", "reason", "again"),
    [(int, "decoder_killed", False), (ancestor, "process_died", True)],
    ids=["child", "actor"],
)
def test_a_video_that_ends_its_process_every_time(
    cluster, command, baseline, short_world, big_buck_bunny, tmp_path, whose, reason, again
):
    """After two attempts it is an errors row, and the one loss.

    No file is known that does so, so what decodes it is killed whenever it has this one open, as the kernel would if
    the video took all memory. It is real footage, whose decoding takes long enough to be met every time.
    """
    output, victim = tmp_path / "out", short_world / "videos" / "victim.mp4"
    shutil.copy(big_buck_bunny, victim)
    label = {"segment": [0.5, 4.5], "label": "rabbit yawning", "objects": [{"name": "red ball", "audible": True}]}
    others = json.loads((short_world / "labels.json").read_text())["database"]
    labels = {"database": {"victim": {"duration": 5.28, "annotations": [label]}, **others}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    process = start(cluster, command(output, f"input.annotations={tmp_path}/labels.json"))
    met, until = set(), time.monotonic() + WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        child = decoding(cluster, f"/{victim.name}")
        if child and child not in met:  # one that was killed may take a moment to be gone
            doomed = whose(child)
            assert doomed > 1, "it has lost its actor"
            os.kill(doomed, signal.SIGKILL)
            met.add(child)
        time.sleep(0.02)
    finish(process)
    found = content(output)
    errors = [(row["video_id"], row["stage"], row["reason"], row["retryable"]) for row in found["errors"]]
    assert errors == [("victim", "decode", reason, again)] and len(met) == 2
    assert {**found, "errors": []} == baseline


def test_a_node_that_is_lost(cluster, command, baseline, tmp_path):
    """The one with the GPU; another comes, as an autoscaler would bring it."""
    output = tmp_path / "out"
    with halfway(cluster, command(output), output) as process:
        (node,) = [node for node in cluster.worker_nodes if node.get_resource_and_label_spec().num_gpus]
        cluster.remove_node(node, allow_graceful=False)
        add_node(cluster, **GPU_NODE)
    finish(process)
    assert content(output) == baseline


@pytest.mark.parametrize(
    ("blow", "status", "state"), [(signal.SIGKILL, -9, "died"), (signal.SIGTERM, 1, "stopped")], ids=["kill", "term"]
)
def test_a_driver_that_is_ended(cluster, command, baseline, tmp_path, blow, status, state):
    """Told to stop, it lets go of the output and says so; killed, it can't. The same command goes on after either."""
    output = tmp_path / "out"
    with halfway(cluster, command(output), output) as process:
        process.send_signal(blow)
        said = finish(process, status)
        found = read_status(str(output))
    assert (found.state, found.failed) == (state, {}) and 0 < found.done < VIDEOS
    assert ("interrupted; the same command goes on from here" in said) == (state == "stopped"), said
    assert (output / LOCK).exists() == (state == "died")
    assert "videos are left as they are" in finish(start(cluster, command(output)))
    assert content(output) == baseline


def test_a_decoder_that_hangs_and_retry(cluster, command, baseline, endpoint, tmp_path):
    """The planned victim is the one error; ``ravst retry`` does it again, and it alone."""
    output = tmp_path / "out"
    process = start(cluster, command(output, "decode.deadline_s=15"))
    wait_for(lambda: decoding(cluster), process)  # stopped, it answers nothing and hears nothing, as in a native hang
    said = finish(process)
    assert "errors: decode_deadline 1" in said
    errors = content(output)["errors"]
    assert [(row["stage"], row["reason"]) for row in errors] == [("decode", "decode_deadline")]
    victim = errors[0]["video_id"]
    others = [row for row in baseline["annotations"] if row["video_id"] != victim]
    assert content(output)["annotations"] == others
    retry = [sys.executable, "-m", "ravst_ray.cli", "retry", str(output), "decode.deadline_s=120"]
    retry += [f"llm.base_url={endpoint.base_url}", "--reason", "decode_deadline"]
    finish(start(cluster, retry))
    assert content(output) == baseline


def test_a_driver_that_is_killed_while_captions_are_read(cluster, command, baseline, endpoint, tmp_path):
    """Nothing is committed yet; what was answered is in the cache, and isn't asked again."""
    output = tmp_path / "out"
    with reading(cluster, endpoint, command(output)) as process:
        process.kill()
        finish(process, -signal.SIGKILL)
        found = read_status(str(output))
    assert (found.state, found.done, found.failed, found.left) == ("died", 0, {}, VIDEOS)
    asked = len(endpoint.requests)
    finish(start(cluster, command(output)))
    assert len(endpoint.requests) <= asked + 1, "at most the one that wasn't answered"
    assert content(output) == baseline


def test_an_endpoint_that_is_slow_and_then_away(cluster, command, baseline, endpoint, tmp_path):
    """What it didn't answer is an errors row that may pass; the same command does it once it is back."""
    output, behaviour = tmp_path / "out", endpoint.respond
    behaviour.delay_s = 1.0
    try:
        with reading(cluster, endpoint, command(output)) as process:
            behaviour.away = True
        finish(process)
    finally:
        behaviour.away, behaviour.delay_s = False, 0.0
    errors = [(row["stage"], row["reason"], row["retryable"]) for row in content(output)["errors"]]
    assert errors == [("captions", "llm_unreachable", True)]
    finish(start(cluster, command(output)))
    assert content(output) == baseline


def test_an_object_store_that_is_busy(cluster, command, baseline, s3, tmp_path):
    """From the first committed video on every request is turned away with status 503 for longer than pyarrow's client
    tries again by itself (6 s), and then every third one."""
    copy = tmp_path / "out"
    begun, turned_away = [], []

    def busy(method, path):
        number = len(s3.requests)
        if begun and (time.monotonic() < begun[0] + 17.0 or number % 3 == 0):
            turned_away.append(number)
            return 503
        if not begun and method == "PUT" and "/_commit/units/" in path and path.endswith(".json"):
            begun.append(time.monotonic())
        return None

    s3.spoil = busy
    try:
        said = finish(start(cluster, command(f"s3://{BUCKET}/out", f"llm.cache={tmp_path}/cache.sqlite")))
    finally:
        s3.spoil = lambda method, path: None
    assert len(turned_away) > 10 and "failed, trying again: " in said
    for key in s3.keys("out/"):
        if not key.endswith("/"):  # that marks a folder
            place = copy / key.removeprefix("out/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(s3.get(key))
    assert content(copy) == baseline


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_that_is_full(cluster, command, baseline, small_disk):
    """The run ends with a message; once there is room, the same command goes on."""
    output, ballast = small_disk / "out", small_disk / "ballast"
    with (
        halfway(cluster, command(output), output) as process,
        ballast.open("wb", buffering=0) as file,
        pytest.raises(OSError, match="No space left"),
    ):
        while True:
            file.write(bytes(4096))
    said = finish(process, status=1)
    assert "No space left on device" in said and "Traceback" not in said, said
    assert 0 < len(committed(output)) < VIDEOS
    assert read_status(str(output)).state == "aborted", "there is room where the last record was"
    ballast.unlink()
    finish(start(cluster, command(output)))
    assert content(output) == baseline


def language_models(endpoint):
    """Pids of the servers that the cluster's actors started: below their supervisors, and with its environment."""
    known = "language/server.py"
    return [pid for pid in pids() if known in command_line(ancestor(pid)) and endpoint in environment(pid)]


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_a_local_language_model_that_is_killed(cluster, command, s3, tmp_path):
    """Another is started, and asked again. The cache is made with the first question, so the server answers by then."""
    output, within_s = tmp_path / "out", 600.0
    local = ["llm.backend=local", "llm.model_dir=smollm2", "llm.start_timeout_s=500", "llm.max_retries=5"]
    finish(start(cluster, command(tmp_path / "undisturbed", *local)), within_s=within_s)
    process = start(cluster, command(output, *local))
    wait_for((output / "llm_cache.sqlite").exists, process, within_s)
    (server,) = language_models(s3.endpoint)
    os.kill(server, signal.SIGKILL)
    assert "is started anew" in finish(process, within_s=within_s)
    assert content(output) == content(tmp_path / "undisturbed")


@pytest.mark.timeout(2400)
def test_the_head_that_is_lost(command, baseline, tmp_path):
    """Ray itself ends the driver after a minute without it; the same command on another cluster goes on."""
    output = tmp_path / "out"
    with started() as doomed, halfway(doomed, command(output), output) as process:
        doomed.remove_node(doomed.head_node, allow_graceful=False)
        said = process.communicate(timeout=WITHIN_S)[0]
        assert process.returncode != 0, said
    assert 0 < len(committed(output)) < VIDEOS
    with started() as fresh:
        said = finish(start(fresh, command(output)))
    assert "videos are left as they are" in said
    assert content(output) == baseline
