"""Format of a reply: is it thinking with a graph, and one answer?"""

from __future__ import annotations

from ravst_ray.core.graph_replies import Reply


def reply_format_score(reply: Reply) -> float:
    """1 for a reply without malformation: thinking that ends, one graph in it, one answer that can be read; else 0."""
    return float(not reply.malformed and reply.thought and reply.graph is not None and reply.value is not None)
