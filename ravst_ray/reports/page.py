"""What all HTML pages share: one base template, one style sheet, one set of components, and what a page may do.

Templates lie in ``templates/``: a page extends ``base.html.j2`` and takes its parts from the macros beside it, so that
a table always scrolls within itself and a chart looks the same everywhere. The style sheet is ``assets/style.css``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

# Control characters, marks that turn the direction of writing (they let a name pass for another), half characters.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure: ``shown`` is formatted already, ``value`` the exact number for machines."""

    label: str
    value: float
    shown: str
    note: str = ""


@cache
def style_sheet() -> str:
    """The CSS of all pages."""
    return (files("ravst_ray.reports") / "assets" / "style.css").read_text(encoding="utf-8")


def content_policy() -> str:
    """The Content-Security-Policy of a report: it runs no script, fetches nothing and sends nothing.

    Whatever texts of models and labels say, a browser obeys none of it. Style sheets are let in by the hash of ours;
    only ``style`` attributes are free, since they hold the lengths of bars. Browsers that don't know
    ``style-src-elem`` take what ``style-src`` says.
    """
    digest = base64.b64encode(hashlib.sha256(style_sheet().encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"style-src-elem 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def page_environment() -> jinja2.Environment:
    """Jinja2 with the filters that pages share. It escapes all texts; a name that a template lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ravst_ray.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_fit,
    )
    environment.globals.update(policy=content_policy(), style=Markup(style_sheet()))
    environment.filters.update(exact=_exact, duration=duration)
    return environment


def duration(seconds: float) -> str:
    """Seconds for people: ``"8.2 s"``, ``"3 min 05 s"``, ``"2 h 10 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _fit(value: Any) -> Any:
    """Text that HTML and UTF-8 can hold: names and completions are full of what they can't."""
    return _UNFIT.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _exact(value: float, shown: str | None = None) -> Markup:
    """A number as ``<data>``: people read ``shown``, machines the exact value."""
    exact = f"{value:d}" if isinstance(value, int) else f"{value:.10g}"
    return Markup('<data value="{}">{}</data>').format(exact, f"{value:,}" if shown is None else shown)
