"""The published wording of the questions, for those who ask them and those who must recognise them."""

from __future__ import annotations

TEMPORAL = "When is the moment {name} makes sound and is visible?"
SPATIAL_AUDIBLE = "What visible object(s) make sound between {start} and {end}, and where is/are they?"
SPATIAL_SILENT = "What silent object(s) can be seen between {start} and {end}, and where is/are they?"
SPATIO_TEMPORAL = 'When is the moment {name} makes sound and is visible, and where is the "{name}"?'
