"""Strict configuration: what is unknown or doesn't fit fails with a message that names the key."""

from pathlib import Path

import pytest
import yaml

from ravst_ray.config.annotate import AnnotateConfig, FilterConfig, GroundingConfig, PoolConfig
from ravst_ray.config.base import StrictModel, dump_config, load_config
from ravst_ray.config.make_str import MakeStrConfig
from ravst_ray.config.sft import SftRunConfig
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import PredictConfig
from ravst_ray.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[1] / "jobs" / "configs").glob("annotate_*.yaml"))
TRAINING = sorted((Path(__file__).parents[1] / "jobs" / "configs").glob("train_*.yaml"))
MINIMAL = "input: {annotations: labels.json, videos: videos}\noutput: out\n"


@pytest.fixture
def load(tmp_path):
    """Parse a text with overrides."""

    def run(text, *overrides):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(AnnotateConfig, path, overrides)

    return run


def test_the_shipped_configurations_are_there():
    kinds = ("laptop", "1gpu", "captioner", "cluster", "paper")
    assert {path.stem for path in SHIPPED} == {f"annotate_{kind}" for kind in kinds}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_parse_and_take_overrides(path):
    config = load_config(AnnotateConfig, path, ["output=elsewhere", "grounding.box_threshold=0.25"])
    assert (config.output, config.grounding.box_threshold) == ("elsewhere", 0.25)


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_shipped_training_configurations_parse_and_fit(path):
    config = load_config(TrainConfig, path, ["output=elsewhere", "max_steps=7"])
    assert (config.output, config.max_steps) == ("elsewhere", 7)
    shown = config.frames.max_frames * config.frames.min_pixels / 28**2 / 2
    assert shown + config.rollouts.max_tokens < config.engine.max_model_len


def test_a_micro_batch_is_whole_groups_or_equal_parts_of_one():
    given = ["rollouts.group_size=12", "rollouts.prompts_per_step=4", "output=o"]
    path = TRAINING[0].with_name("train_laptop.yaml")
    for size in (1, 2, 3, 4, 6, 12, 24, 48):
        assert load_config(TrainConfig, path, [*given, f"learner.micro_batch={size}"]).learner.micro_batch == size
    for size in (8, 16):
        with pytest.raises(ConfigError, match=rf"micro_batch = {size} cuts .* what fits: 1, 2, 3, 4, 6, 12, 24, 48"):
            load_config(TrainConfig, path, [*given, f"learner.micro_batch={size}"])


def test_the_shipped_supervised_configuration_parses():
    config = load_config(SftRunConfig, TRAINING[0].with_name("sft_laptop.yaml"), ["sft.epochs=2"])
    assert (config.sft.epochs, config.prompt.state_grammar) == (2.0, False)


def test_the_shipped_prediction_asks_as_the_shipped_training_does():
    """The toy policy knows one prompt: a difference between the two files would show as bad answers."""
    config = load_config(PredictConfig, TRAINING[0].with_name("predict_laptop.yaml"))
    training = load_config(TrainConfig, TRAINING[0].with_name("train_laptop.yaml"))
    assert (config.frames, config.prompt) == (training.frames, training.prompt)
    assert config.engine.model == training.model
    assert config.engine.max_model_len == training.engine.max_model_len
    assert config.sampling.max_tokens == training.rollouts.max_tokens


def test_a_key_that_is_given_twice_in_a_shipped_file_would_be_lost():
    """YAML keeps the last of repeated keys silently: none of our files repeats a section."""
    for path in [*SHIPPED, *TRAINING]:
        node = yaml.compose(path.read_text(encoding="utf-8"))
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), path


def test_defaults_are_those_of_the_paper(load):
    config = load(MINIMAL)
    assert config.filter == FilterConfig(
        max_duration_s=60, short_s=20, medium_s=40, max_events=3, min_event_share=0.08, balance=False
    )
    assert (config.grounding.box_threshold, config.grounding.text_threshold) == (0.4, 0.3)
    assert (config.decode.step_s, config.split.test_share, config.llm.backend) == (1.0, 0.2, "local")


def test_overrides_are_yaml_and_reach_any_depth(load):
    config = load(
        MINIMAL,
        "filter.balance=true",
        "input.subsets=[train, test]",
        "actors.ground.max=4",
        "llm.base_url=http://127.0.0.1:8000/v1?a=b",
        "input.limit=null",
        "seed=7",
    )
    assert config.filter.balance is True
    assert config.input.subsets == ["train", "test"] and config.input.limit is None
    assert config.actors.ground == PoolConfig(min=1, max=4)
    assert config.llm.base_url == "http://127.0.0.1:8000/v1?a=b"
    assert config.seed == 7


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("output=/data/run #2", "output", "/data/run #2"),
        ("output=2024: the second", "output", "2024: the second"),
        ("output=010", "output", "010"),
        ("output=true", "output", "true"),
        ("output=~/x", "output", str(Path.home() / "x")),
        ("llm.cache=~/c", "llm.cache", str(Path.home() / "c")),
        ("llm.model=[odd]", "llm.model", "[odd]"),
        ("llm.model_dir=null", "llm.model_dir", None),
        ("seed=010", "seed", 10),
        ("decode.step_s=0.5", "decode.step_s", 0.5),
        ("decode.backend=pyav", "decode.backend", "pyav"),
        ("filter.events_per_video=2", "filter.events_per_video", 2),
        ("filter.events_per_video=first", "filter.events_per_video", "first"),
        ("questions.per_event={AVTR: 0.5}", "questions.per_event", {"AVTR": 0.5}),
    ],
)
def test_texts_are_taken_as_typed_and_numbers_are_decimal(load, override, read, value):
    found = load(MINIMAL, override)
    for key in read.split("."):
        found = getattr(found, key)
    assert found == value


def test_home_is_meant_in_files_too_and_a_byte_order_mark_is_no_fault(load):
    config = load("\ufeff" + MINIMAL.replace("output: out", "output: ~/x").replace("labels.json", "~other/labels.json"))
    assert (config.output, config.input.annotations) == (str(Path.home() / "x"), "~other/labels.json")


def test_overrides_alone_are_enough():
    config = load_config(AnnotateConfig, None, ["input.annotations=a", "input.videos=v", "output=o"])
    assert (config.input.annotations, config.input.videos, config.output) == ("a", "v", "o")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL, ["filter.max_event=4"], r"config\.yaml: filter\.max_event: unknown key"),
        (MINIMAL, ["decode.step_s=0.25"], r"decode\.step_s: .*0\.25 is no whole number of tenths of a second"),
        (MINIMAL + "sed: 1\n", [], r"sed: unknown key"),
        (MINIMAL, ["actors.decode.gpus=1"], r"actors\.decode\.gpus: unknown key"),
        ("output: out\n", [], r"input: Field required"),
        (MINIMAL, ["filter.max_events=0"], r"filter\.max_events: .*greater than or equal to 1.* \(got 0\)"),
        (MINIMAL, ["filter.min_event_share=1.5"], r"filter\.min_event_share"),
        (MINIMAL, ["decode.backend=cv2"], r"decode\.backend: .*decord.*pyav"),
        (MINIMAL, ["actors.ground.min=3", "actors.ground.max=2"], r"max is below min[^{]*$"),  # without the section
        (MINIMAL, ["actors.ground.min=3"], r"max is below min"),
        (MINIMAL, ["split.test_share=many"], r"split\.test_share"),
        (MINIMAL, ["sed=1", "filter.x=2"], r"filter\.x: unknown key; sed: unknown key|sed.*;.*filter\.x"),
        (MINIMAL, ["output"], r"'output': expected key\.sub=value"),
        (MINIMAL, ["=3"], r"expected key\.sub=value"),
        (MINIMAL, ["output.name=x"], r"output is a value, not a section"),
        (MINIMAL, ["seed=[1"], r"seed=\[1"),
        ("- a\n- b\n", [], r"a configuration is a mapping of keys, this is a list"),
        ("a: [", [], r"not a readable YAML file"),
        ("", [], r"input: Field required"),
    ],
)
def test_what_does_not_fit_is_named(load, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(text, *overrides)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such configuration file"):
        load_config(AnnotateConfig, tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="not a readable YAML file"):
        load_config(AnnotateConfig, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="not a readable YAML file"):
        load_config(AnnotateConfig, tmp_path / "binary.yaml")


def test_the_saved_copy_gives_the_same_configuration(load, tmp_path):
    config = load(MINIMAL, "grounding.detector=some/dir", "actors.llm.num_cpus=0.25", "filter.balance=true")
    (tmp_path / "saved.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(AnnotateConfig, tmp_path / "saved.yaml") == config


TOP = {
    AnnotateConfig: {"input": {"annotations": "a", "videos": "v"}, "output": "o"},
    TrainConfig: {"data": {"annotations": "a", "videos": "v"}, "output": "o"},
    SftRunConfig: {"data": {"annotations": "a", "videos": "v"}, "output": "o"},
    PredictConfig: {},
    MakeStrConfig: {"input": {"scenes": "s", "format": "toy"}, "output": "o"},
}


def settings_of(section, path=()):
    """Every setting of every section: its path and its value."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        yield (*path, name), value
        if isinstance(value, StrictModel):
            yield from settings_of(value, (*path, name))


@pytest.mark.parametrize("kind", TOP, ids=lambda kind: kind.__name__)
def test_a_section_that_is_given_in_part_keeps_the_defaults_of_the_whole(kind):
    whole = kind.model_validate(TOP[kind])
    for path, value in settings_of(whole):
        given = value
        for name in reversed(path[1:]):
            given = {name: given}
        if path[0] not in TOP[kind]:
            assert kind.model_validate({**TOP[kind], path[0]: given}) == whole, path


def test_the_defaults_of_a_section_that_are_not_those_of_its_class():
    config = load_config(TrainConfig, None, ["data.annotations=a", "data.videos=v", "output=o", "frames.max_frames=32"])
    assert (config.frames.step_s, config.frames.max_frames, config.engine.max_num_seqs) == (4.0, 32, 64)


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        GroundingConfig().box_threshold = 0.1
