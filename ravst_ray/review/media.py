"""The videos over HTTP: pieces of their files, their pictures and their sound."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response, StreamingResponse

from ravst_ray.review.answers import error_answer, json_answer
from ravst_ray.review.files import Pictures, VideoFile, byte_range, pieces, why_unplayable

_VIDEO = {"Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}
_WAIT_S = 90.0  # for a decoder, which has a deadline of its own


class Source(Protocol):
    """Knows the videos of a page."""

    @property
    def pictures(self) -> Pictures:
        """Reads files."""

    def video(self, video_id: str) -> VideoFile:
        """The file of a video.

        Raises:
            UnknownItem: there is no such video.
            StepError: its file isn't there.
        """

    def duration_s(self, video_id: str) -> float:
        """How long a video is; errors as of :meth:`video`."""


def serve_media(app: FastAPI, source: Source) -> None:
    """The videos: pieces of their files, their pictures and their sound."""

    @app.api_route("/api/video", methods=["GET", "HEAD"])
    def video(request: Request, video_id: str) -> Response:
        file = source.video(video_id)
        try:
            wanted = byte_range(request.headers.get("range"), file.size)
        except ValueError:
            return error_answer(416, "no_such_bytes", "the file is shorter", {"Content-Range": f"bytes */{file.size}"})
        first, last = wanted or (0, file.size - 1)
        headers = {**_VIDEO, "Content-Length": str(last - first + 1)}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        body = pieces(file, first, last) if request.method == "GET" else iter(())
        return StreamingResponse(body, 206 if wanted else 200, headers, media_type=file.mime)

    @app.get("/api/timeline")
    async def timeline(video_id: str) -> Response:
        file = await asyncio.to_thread(source.video, video_id)
        found = await _waited(source.pictures.timeline(file))
        why = why_unplayable(found)
        return json_answer(
            {
                "playable": why is None,
                "why_not": why,
                **{name: getattr(found, name) for name in ("container", "codec", "pixels", "end_s", "player_offset_s")},
                **{name: getattr(found.meta, name) for name in ("width", "height", "fps", "has_audio")},
                "starts_s": found.starts_s_T,
                "notes": found.notes,
            }
        )

    @app.get("/api/frame")
    async def frame(video_id: str, time_s: Annotated[float, Query(ge=0, lt=1e7)]) -> Response:
        file = await asyncio.to_thread(source.video, video_id)
        jpeg = await _waited(source.pictures.jpeg(file, time_s))
        if jpeg is None:
            return error_answer(404, "no_picture", f"no picture is shown at {time_s:g} s")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

    @app.get("/api/waveform")
    async def waveform(video_id: str, bins: Annotated[int, Query(ge=1, le=8000)] = 1000) -> Response:
        file = await asyncio.to_thread(source.video, video_id)
        duration_s = await asyncio.to_thread(source.duration_s, video_id)
        peaks = await _waited(source.pictures.peaks(file, bins, duration_s))
        why = None if peaks is not None else "this video has no sound track that can be read"
        return json_answer({"peaks": peaks, "duration_s": duration_s, "why_not": why})


async def _waited(future: Any) -> Any:
    return await asyncio.wait_for(asyncio.wrap_future(future), _WAIT_S)
