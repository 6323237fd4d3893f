"""The head of every HTML page that is written."""

from __future__ import annotations

HEAD = """\
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">"""
"""A page runs no script and fetches nothing, whatever the texts of models and labels in it say."""
