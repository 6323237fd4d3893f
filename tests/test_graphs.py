"""Replies with a graph: rendering and parsing are inverses, and no text makes the parser raise or run long."""

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravst_ray.core.graph_replies import MALFORMATIONS, parse_reply, render_reply
from ravst_ray.core.graphs import DEEPEST, LONGEST, Graph, GraphFrame, Node, parse_graph, render_graph
from ravst_ray.core.values import read_value, render_value
from tests.fuzzing import damage_json

BALL, DRUM = Node("red ball.1", "red ball", (0.31, 0.62)), Node("blue drum.1", "blue drum", (0.7, 0.2))
GRAPH = Graph((GraphFrame(2.0, (BALL, DRUM)),))
# dist = hypot(0.39, -0.42) = 0.573, angle = atan2(-0.42, 0.39) = -0.822
TEXT = """<think>
<graph>{"frames":[{"t":2.0,"nodes":[{"id":"red ball.1","pos":[0.31,0.62]},{"id":"blue drum.1","pos":[0.7,0.2]}],\
"edges":[{"s":"red ball.1","o":"blue drum.1","dist":0.57,"angle":-0.82}]}]}</graph>
</think>
<answer>B</answer>"""


def node(name, *pos):
    return {"id": name, "pos": list(pos)}


def graph(nodes=(), edges=(), t=2.0, **more):
    return json.dumps({"frames": [{"t": t, "nodes": list(nodes), "edges": list(edges), **more}]})


def reply(content, answer="<answer>B</answer>"):
    return f"<think><graph>{content}</graph></think>{answer}"


A, B = node("a.1", 0.0, 0.0), node("b.1", 0.3, 0.4)
EDGE = {"s": "a.1", "o": "b.1"}
CLEAN = graph([A, B])


def test_the_text_of_a_reply():
    assert render_reply("B", GRAPH) == TEXT
    read = parse_reply(TEXT)
    assert (read.value, read.graph, read.thought, read.malformed) == ("B", GRAPH, True, {})


def test_edges_may_be_left_out_and_have_no_bearing_in_space():
    assert parse_graph(render_graph(GRAPH, edges=False))[0] == GRAPH
    space = Graph((GraphFrame(0.0, (Node("a.1", "a", (0.0, 0.0, 0.0)), Node("b.1", "b", (2.0, 3.0, 6.0)))),))
    (frame,) = json.loads(render_graph(space))["frames"]
    assert frame["edges"] == [{"s": "a.1", "o": "b.1", "dist": 7.0}]


labels = st.text(min_size=1, max_size=12).filter(lambda name: name.isprintable() and name == name.strip())
coordinates = st.floats(-1000, 1000)


@st.composite
def graphs(draw):
    axes = draw(st.sampled_from((2, 3)))
    frames = []
    for hundredths in draw(st.lists(st.integers(-500, 9999), min_size=1, max_size=4, unique=True)):
        ids = draw(st.lists(st.tuples(labels, st.integers(1, 9999)), max_size=5, unique=True))
        nodes = [
            Node(f"{label}.{number}", label, tuple(draw(coordinates) for _ in range(axes))) for label, number in ids
        ]
        frames.append(GraphFrame(hundredths / 100, tuple(nodes)))
    return Graph(tuple(frames))


@settings(max_examples=150, deadline=None)
@given(graphs(), st.booleans())
def test_parsing_is_the_inverse_of_rendering(one, edges):
    read = parse_reply(render_reply("A", one, edges))
    assert not read.malformed and read.graph is not None
    assert [(frame.time_s, [(n.id, n.label) for n in frame.nodes]) for frame in read.graph.frames] == [
        (frame.time_s, [(n.id, n.label) for n in frame.nodes]) for frame in one.frames
    ]
    for frame, other in zip(read.graph.frames, one.frames, strict=True):
        for n, m in zip(frame.nodes, other.nodes, strict=True):
            assert n.pos == pytest.approx(m.pos, abs=0.005 + 1e-9)
    assert parse_graph(render_graph(read.graph, edges))[0] == read.graph, "what is rounded stays"


@pytest.mark.parametrize(
    "bad",
    [
        Node("dog", "dog", (0.0, 0.0)),
        Node("dog.0", "dog", (0.0, 0.0)),
        Node("a\n.1", "a\n", (0.0, 0.0)),
        Node("dog.1", "dog", (math.nan, 0.0)),
        Node("dog.1", "dog", (0.0, 0.0, 0.0)),
        Node("red ball.1", "red ball", (0.0, 0.0)),
    ],
)
def test_what_the_grammar_cannot_carry_is_not_rendered(bad):
    with pytest.raises(ValueError):
        render_graph(Graph((GraphFrame(0.0, (BALL, bad)),)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("B", "B"), ("b", "B"), ("B.", "B"), ("(B)", "B"), ("( c )", "C"), ("B. left", "B"), ("b) to the left", "B"),
        ("2.5", 2.5), ("-3", -3.0), (".5", 0.5), ("3.", 3.0), ("1e2", 100.0), ("2.5 m", 2.5), ("2.5m/s", 2.5),
        ("12 square metres.", 12.0), ("4 m^2", 4.0), ("4 m2", 4.0), ("30°", 30.0),
        ("[1.0, 4.5]", (1.0, 4.5)), ("[1,4.5] s", (1.0, 4.5)), ("\n[12.0, 30.5, 80, 99]\n", (12.0, 30.5, 80.0, 99.0)),
        ("", None), ("left", None), ("A man", None), ("B or C", None), ("2 or 3", None), ("about 3", None),
        ("[1]", None), ("[1, 2, 3]", None), ("[1, 2", None), ("nan", None), ("[nan, 2]", None), ("inf", None),
        ("1e308", None), ("1e999", None), ("1000001", None), ("9" * 5000, None), ("1,200", None), ("1" * 33, None),
    ],
)  # fmt: skip
def test_values(text, value):
    assert read_value(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("B", "B"), (3.0, "3"), (3, "3"), (2.444, "2.44"), (-0.001, "0"),
        ((12, 30.5, 80.0, 99.004), "[12.0, 30.5, 80.0, 99.0]"), ((1.0, 4.5), "[1.0, 4.5]"),
    ],
)  # fmt: skip
def test_rendered_values(value, text):
    assert render_value(value) == text


@pytest.mark.parametrize("value", ["left", "b", "3", "", math.nan, 1e7, (1.0,), (1.0, 2.0, 3.0), (math.inf, 1.0)])
def test_what_is_no_value_is_not_rendered(value):
    with pytest.raises(ValueError):
        render_value(value)


DEEP = "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)
CASES = [
    # kinds, completion
    ({"endless_thinking", "no_answer", "no_graph"}, f"<think>{CLEAN}<answer>B</answer>"),
    ({"endless_thinking"}, reply(CLEAN) + "<think>"),
    ({"no_thinking", "no_graph", "graph_outside_thinking"}, f"<graph>{CLEAN}</graph><answer>B</answer>"),
    ({"graph_outside_thinking"}, reply(CLEAN) .replace("<answer>", f"<graph>{CLEAN}</graph><answer>")),
    ({"graph_outside_thinking"}, f"<graph>{CLEAN}</graph>" + reply(CLEAN)),
    ({"no_answer"}, reply(CLEAN, "B")),
    ({"several_answers"}, reply(CLEAN, "<answer>A</answer><answer>B</answer>")),
    ({"unclosed_answer"}, reply(CLEAN, "<answer>B")),
    ({"text_after_answer"}, reply(CLEAN, "<answer>B</answer>!")),
    ({"bad_value"}, reply(CLEAN, "<answer>left</answer>")),
    ({"no_graph"}, "<think>hm</think><answer>B</answer>"),
    ({"no_graph", "unclosed_graph"}, f"<think><graph>{CLEAN}</think><answer>B</answer>"),
    ({"unclosed_graph"}, f"<think></graph><graph>{CLEAN}</graph></think><answer>B</answer>"),
    ({"unclosed_graph"}, f"<think><graph>{CLEAN}</graph><graph></think><answer>B</answer>"),
    ({"several_graphs"}, f"<think><graph>x</graph><graph>{CLEAN}</graph></think><answer>B</answer>"),
    ({"too_long"}, reply(CLEAN + " " * LONGEST)),
    ({"too_long"}, reply(f'{{"frames":{DEEP}}}')),
    ({"too_long"}, reply('["]]]]]]]]",' + "[" * 20_000)),
    ({"bad_json"}, reply("{'frames':[]}")),
    ({"bad_json"}, reply(CLEAN + "}")),
    ({"bad_shape", "empty_graph"}, reply("[]")),
    ({"bad_shape", "empty_graph"}, reply('{"frames":{}}')),
    ({"bad_shape", "empty_graph"}, reply('{"frames":[1]}')),
    ({"bad_shape", "empty_graph"}, reply('{"frames":[{"t":"2","nodes":[]}]}')),
    ({"empty_graph"}, reply('{"frames":[]}')),
    ({"bad_shape"}, reply('{"frames":[{"t":2}]}')),
    ({"bad_shape"}, reply(graph([A, {"id": 1, "pos": [0, 0]}]))),
    ({"bad_shape"}, reply(graph([A, node("b.1", 0, 0, 0, 0)]))),
    ({"bad_shape"}, reply(graph([A, node("b.1", True, 0)]))),
    ({"bad_shape"}, reply(graph([A, B], [{"s": "a.1"}]))),
    ({"bad_shape"}, reply(graph([A, B], [{**EDGE, "dist": None}]))),
    ({"too_many"}, reply(graph([node(f"a.{k}", 0, 0) for k in range(1, 66)]))),
    ({"too_many"}, reply(json.dumps({"frames": [{"t": k, "nodes": []} for k in range(65)]}))),
    ({"too_many"}, reply(graph([A, B], [EDGE] * 2017))),
    ({"repeated_frame"}, reply(json.dumps({"frames": [{"t": 2, "nodes": []}, {"t": 2.001, "nodes": []}]}))),
    ({"bad_number"}, reply(graph([A, node("b.1", math.nan, 0)]))),
    ({"bad_number"}, reply(graph([A, node("b.1", 1e308, 0)]))),
    ({"bad_number"}, reply(graph([A]).replace("0.0,", "1e999,"))),
    ({"bad_number"}, reply(graph([A]).replace("0.0,", "9" * 5000 + ","))),
    ({"bad_number", "empty_graph"}, reply(graph([A], t=math.inf))),
    ({"bad_id"}, reply(graph([A, node("b", 0, 0), node("b.01", 0, 0), node(".1", 0, 0), node("\ud800.1", 0, 0)]))),
    ({"bad_id"}, reply(graph([A, node("x" * 101 + ".1", 0, 0)]))),
    ({"repeated_id"}, reply(graph([A, node("a.1", 0.9, 0.9)]))),
    ({"mixed_space"}, reply(graph([A, node("b.1", 0, 0, 0)]))),
    ({"unknown_node"}, reply(graph([A, B], [{"s": "a.1", "o": "c.1"}]))),
    ({"false_edge"}, reply(graph([A, B], [{**EDGE, "dist": 0.54}]))),  # 0.5 ± (0.02 + 2%)
    ({"false_edge"}, reply(graph([A, B], [{**EDGE, "angle": 0.87}]))),  # atan2(0.4, 0.3) = 0.927 ± 0.05
    (set(), reply(graph([A, B], [{**EDGE, "dist": 0.53, "angle": 0.89}]))),
    (set(), reply(graph([A, B], [{**EDGE, "angle": 0.927 - 2 * math.pi}]))),
    (set(), reply(graph([A, node("b.1", 0.01, 0)], [{**EDGE, "angle": 3}]))),  # within rounding of one place
    (set(), "what do I see? " + reply(CLEAN).replace("<think>", "<think>Let me look. ")),
]  # fmt: skip


@pytest.mark.parametrize(("kinds", "text"), CASES)
def test_malformations_are_counted(kinds, text):
    read = parse_reply(text)
    assert set(read.malformed) == kinds
    assert read.thought == (not kinds & {"endless_thinking", "no_thinking"})


def test_every_malformation_has_a_case():
    assert set().union(*(kinds for kinds, _ in CASES)) == set(MALFORMATIONS)


def test_what_is_malformed_is_left_out_and_the_rest_is_read():
    nodes = [A, node("a.1", 0.9, 0.9), node("b", 0, 0), node("c.1", math.nan, 0), node("d.1", 0, 0, 0), B]
    read = parse_reply(reply(graph(nodes)))
    assert read.graph == Graph((GraphFrame(2.0, (Node("a.1", "a", (0.0, 0.0)), Node("b.1", "b", (0.3, 0.4)))),))
    assert read.malformed == {"repeated_id": 1, "bad_id": 1, "bad_number": 1, "mixed_space": 1}


def test_the_last_complete_graph_and_the_last_answer_count():
    draft = graph([node("draft.1", 0, 0)])
    text = (
        f"<think><graph>{draft}</graph><answer>A</answer><graph>{CLEAN}</graph><graph>{draft}</think>"
        f"<graph>{draft}</graph><answer>C</answer><answer>B</answer>"
    )
    read = parse_reply(text)
    assert read.graph == parse_graph(CLEAN)[0] and read.value == "B"


HOSTILE = {
    "graphs": "<graph>" * 100_000,
    "ends": "<think>" + "<graph></graph>" * 50_000 + "</think>",
    "spaces": "<" * 100_000 + " " * 100_000 + "graph>",
    "quotes": reply('"\\' * 30_000),
    "open quotes": reply('"\\"' * 20_000),
    "deep": reply("[" * 60_000),
    "edges": reply(graph([A, B], [EDGE] * 2000)),
    "digits": "<answer>" + "1" * 1_000_000,
    "units": "<answer>1 " + "m " * 500_000,
    "list": "<answer>[" + " " * 500_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_runs_long(name):
    started = time.process_time()
    parse_reply(HOSTILE[name])
    assert time.process_time() - started < 1.0


def test_damaged_replies_are_read_without_raising():
    frames = [json.loads(graph([A, B], [{**EDGE, "dist": 0.5}], t=t))["frames"][0] for t in (0, 1)]
    valid = json.dumps({"frames": frames})
    kept = 0
    for number in range(600):
        read = parse_reply(reply(damage_json(valid, number).decode("utf-8", "replace")))
        assert set(read.malformed) <= set(MALFORMATIONS) and read.value == "B"
        for frame in read.graph.frames if read.graph else ():
            assert abs(frame.time_s) <= 1e6
            for one in frame.nodes:
                kept += 1
                assert one.label.encode() and len(one.pos) in (2, 3) and all(abs(x) <= 1e6 for x in one.pos)
        if read.graph and read.graph.frames and not set(read.malformed) & {"too_long", "empty_graph"}:
            render_graph(read.graph)
    assert kept > 600
