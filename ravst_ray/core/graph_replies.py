"""A graph inside a model's thinking and the short answer after it: one renderer, one parser, exact inverses.

::

    <think>
    <graph>{"frames":[{"t":2.0,"nodes":[{"id":"drum.1","pos":[0.31,0.62]}],"edges":[]}]}</graph>
    </think>
    <answer>B</answer>

The parser takes any text, never raises, is linear in its length and counts what is malformed by kind. The graph that
counts is the last complete one inside the thinking; the answer is the last one after it, or all that follows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ravst_ray.core.graphs import GRAPH_MALFORMATIONS, Graph, parse_graph, render_graph
from ravst_ray.core.replies import ANSWER_MALFORMATIONS, after_thinking, answer_span
from ravst_ray.core.values import Value, read_value, render_value

MALFORMATIONS: dict[str, str] = {
    **ANSWER_MALFORMATIONS,
    "no_thinking": "there is no </think>",
    "bad_value": "an <answer> that isn't one letter, number, box or interval",
    "no_graph": "the thinking has no complete <graph>",
    "several_graphs": "the thinking has more than one <graph> (the last complete one counts)",
    "unclosed_graph": "a <graph> or </graph> without the other",
    "graph_outside_thinking": "a <graph> before or after the thinking (isn't read)",
    **GRAPH_MALFORMATIONS,
}
"""Every kind of malformation that is counted, and what it means."""

_TAG = re.compile(r"<\s{0,8}(/?)\s{0,8}graph\s{0,8}>")


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion as it was read.

    Attributes:
        value: the answer; None where there is none that can be read.
        graph: the last complete graph of the thinking, perhaps without a frame; None where there is none.
        thought: whether there is thinking, and it ends.
        malformed: how often each kind of malformation was met, empty for a clean reply.
    """

    value: Value | None
    graph: Graph | None
    thought: bool
    malformed: Mapping[str, int] = field(default_factory=dict)


def render_reply(value: Value, graph: Graph, edges: bool = True) -> str:
    """The completion that gives this graph and this answer.

    Raises:
        ValueError: what the grammar can't carry, as :func:`render_graph` and ``render_value`` say.
    """
    return f"<think>\n<graph>{render_graph(graph, edges)}</graph>\n</think>\n<answer>{render_value(value)}</answer>"


def parse_reply(text: str) -> Reply:
    """Read a completion; see the module's docstring.

    Example:
        >>> reply = parse_reply('<think><graph>{"frames":[]}</graph></think><answer>b.</answer>')
        >>> reply.value, reply.graph, dict(reply.malformed)
        ('B', Graph(frames=()), {'empty_graph': 1})
    """
    span, malformed = answer_span(text)
    spoken, end = after_thinking(text)
    start, stop = span or (spoken, end)
    value = read_value(text[start:stop])
    if value is None and span:
        malformed["bad_value"] += 1
    thought_end = text.rfind("</think>", 0, spoken)
    if thought_end < 0 and not malformed["endless_thinking"]:
        malformed["no_thinking"] += 1
    content = _last_graph(text, text.find("<think>", 0, max(thought_end, 0)), thought_end, malformed)
    graph = None
    if content is None:
        malformed["no_graph"] += 1
    else:
        graph, found = parse_graph(content)
        malformed += found
    return Reply(value, graph, thought_end >= 0 and end == len(text), dict(+malformed))


def _last_graph(text: str, start: int, end: int, malformed: Counter[str]) -> str | None:
    """The content of the last complete ``<graph>`` between two places (-1: the text's start; nowhere)."""
    content, complete = None, 0
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        if not start <= tag.start() < end:
            malformed["graph_outside_thinking"] += not tag[1]
            continue
        if tag[1] and opened:
            content, complete = text[opened.end() : tag.start()], complete + 1
        elif tag[1] or opened:
            malformed["unclosed_graph"] += 1
        opened = None if tag[1] else tag
    malformed["unclosed_graph"] += opened is not None
    malformed["several_graphs"] += complete > 1
    return content
