"""Draw the README's picture from the demo's output: three sampled frames of one event, side by side."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.media.decoding import ChildDecoder
from ravst_ray.records import EventAnnotation
from ravst_ray.reports.overlay import draw_frame, tracks_at
from ravst_ray.toyworld.accuracy import stored_annotations

OUT = Path("out/demo")
PICTURE = Path("ravst_ray/reports/assets/annotated_frame.png")
GAP_PX = 12


def _is_clear(one: EventAnnotation) -> bool:
    """Whether names are unique, and one object sounds while another is silent."""
    names = {track.name for track in one.tracks}
    return len(names) == len(one.tracks) and len({track.audible for track in one.tracks}) == 2


if __name__ == "__main__":
    annotations = stored_annotations(DatasetStore(str(OUT / "dataset")))
    everything = [(name, one) for name, events in sorted(annotations.items()) for one in events]
    clear = [(name, one) for name, one in everything if _is_clear(one)]
    name, best = max(clear, key=lambda pair: (len(pair[1].tracks), sum(len(t.times_s) for t in pair[1].tracks)))
    times = best.frame_times_s
    chosen = [times[round(k * (len(times) - 1) / 2)] for k in range(3)]
    decoder = ChildDecoder(DecodeConfig.model_validate({"backend": "pyav"}))
    frames = decoder.decode(str(OUT / "world" / "videos" / f"{name}.mp4"), chosen).frames
    decoder.close()
    images = [np.asarray(Image.open(BytesIO(jpeg)).convert("RGB")) for jpeg in frames.jpegs]
    drawn = [draw_frame(rgb, tracks_at(best.tracks, t)) for rgb, t in zip(images, chosen, strict=True)]
    width = sum(one.width for one in drawn) + GAP_PX * (len(drawn) - 1)
    strip = Image.new("RGB", (width, drawn[0].height), "white")
    left = 0
    for one in drawn:
        strip.paste(one, (left, 0))
        left += one.width + GAP_PX
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    strip.quantize(256).save(PICTURE, optimize=True)
