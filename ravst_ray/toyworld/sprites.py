"""Painting of one sprite: signed distances for smooth edges, soft shading, and a pulsing core while it sounds."""

from __future__ import annotations

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 46, 44),
    "blue": (46, 88, 208),
    "green": (44, 158, 66),
    "yellow": (236, 192, 40),
}
SHAPES: tuple[str, ...] = ("drum", "bell", "ball")
_LIGHT = np.array([-0.5, -0.62, 0.6], np.float32)
_CREAM = np.array([244, 234, 212], np.float32)
_GLOW = np.array([255, 250, 225], np.float32)
_SHADOW_PX = 5


def paint(
    canvas: np.ndarray,
    name: str,
    centre_px: tuple[float, float],
    radius_px: float,
    tilt_rad: float,
    tint: np.ndarray,
    sounding_s: float | None,
) -> tuple[np.ndarray, float]:
    """Paint a sprite onto ``canvas`` (float ``[H, W, 3]``, changed in place).

    Args:
        canvas: picture so far.
        name: "colour shape".
        centre_px: (x, y) of the centre; may be outside.
        radius_px: half the width of the sprite's extent.
        tilt_rad: rotation, clockwise.
        tint: added to the colour, ``[3]``.
        sounding_s: the time, when it sounds (the core pulses with it); None when it is silent.

    Returns:
        The covered pixels (bool ``[H, W]``) and the sprite's whole area in pixels, parts outside the picture included.
    """
    height, width = canvas.shape[:2]
    colour, shape = name.split()
    reach = int(np.ceil(1.2 * radius_px)) + _SHADOW_PX + 2
    left, top = int(np.floor(centre_px[0])) - reach, int(np.floor(centre_px[1])) - reach
    ys, xs = np.mgrid[0 : 2 * reach + 1, 0 : 2 * reach + 1].astype(np.float32)
    dx, dy = (xs + left + 0.5 - centre_px[0]) / radius_px, (ys + top + 0.5 - centre_px[1]) / radius_px
    cos, sin = np.float32(np.cos(tilt_rad)), np.float32(np.sin(tilt_rad))
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    distance, paintwork = _PAINTERS[shape](u, v, np.array(COLOURS[colour], np.float32) + tint)
    distance_px = distance * radius_px
    if sounding_s is not None:
        paintwork = _with_core(paintwork, u, v, sounding_s)
    paintwork *= (0.72 + 0.28 * np.clip(-distance_px / 3, 0, 1))[..., None]
    alpha = np.clip(0.5 - distance_px, 0, 1)
    shadow = 0.38 * np.clip(0.5 - distance_px / 9, 0, 1)
    shadow = np.pad(shadow, ((_SHADOW_PX - 1, 0), (_SHADOW_PX - 2, 0)))[: alpha.shape[0], : alpha.shape[1]]
    covered = np.zeros((height, width), bool)
    y0, y1, x0, x1 = max(top, 0), min(top + len(ys), height), max(left, 0), min(left + len(ys), width)
    if y0 < y1 and x0 < x1:
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        view, opaque = canvas[y0:y1, x0:x1], alpha[part][..., None]
        view *= 1 - shadow[part][..., None]
        view += opaque * (paintwork[part] - view)
        covered[y0:y1, x0:x1] = alpha[part] >= 0.5
    return covered, float((alpha >= 0.5).sum())


def _with_core(paintwork: np.ndarray, u: np.ndarray, v: np.ndarray, time_s: float) -> np.ndarray:
    """A bright core with rings running outwards, all inside the sprite, so that its extent stays the same."""
    rho = np.hypot(u, v - 0.1)
    core = np.exp(-((rho / 0.42) ** 2)) * (0.8 + 0.2 * np.sin(2 * np.pi * 1.7 * time_s))
    rings = 0.45 * np.clip(np.cos(2 * np.pi * (2.2 * rho - 1.7 * time_s)), 0, 1) ** 2
    mix = np.clip(core + rings, 0, 0.95)[..., None].astype(np.float32)
    return paintwork + mix * (_GLOW - paintwork)


def _shade(colour: np.ndarray, normal_u: np.ndarray, normal_v: np.ndarray) -> np.ndarray:
    """Diffuse light from the upper left with a small highlight, for a surface given by its normal's u and v."""
    w = np.sqrt(np.clip(1 - normal_u**2 - normal_v**2, 0, 1))
    lit = np.clip(normal_u * _LIGHT[0] + normal_v * _LIGHT[1] + w * _LIGHT[2], 0, 1)
    shaded = colour * (0.52 + 0.6 * lit)[..., None]
    return shaded + (110 * lit**14)[..., None]


def _ellipse(u: np.ndarray, v: np.ndarray, a: float, b: float) -> np.ndarray:
    """Distance to an ellipse around 0, right near its edge, which is where it matters."""
    k = np.hypot(u / a, v / b)
    slope = np.hypot(u / a**2, v / b**2)
    return np.where(k > 0.05, k * (k - 1) / np.maximum(slope, 1e-3), -min(a, b))


def _box(u: np.ndarray, v: np.ndarray, a: float, b: float, corner: float) -> np.ndarray:
    """Distance to a box of half sides a and b around 0 with round corners."""
    qu, qv = np.abs(u) - a + corner, np.abs(v) - b + corner
    return np.hypot(np.maximum(qu, 0), np.maximum(qv, 0)) + np.minimum(np.maximum(qu, qv), 0) - corner


def _ball(u: np.ndarray, v: np.ndarray, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A shaded sphere with a pale band."""
    paintwork = _shade(colour, u, v)
    band = np.abs(v + 0.35 * u**2 - 0.1) < 0.13
    paintwork[band] = 0.35 * paintwork[band] + 0.65 * _shade(_CREAM, u, v)[band]
    return np.hypot(u, v) - 1, paintwork


def _drum(u: np.ndarray, v: np.ndarray, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A cylinder seen from a little above, with a cream skin and cream bands."""
    skin = _ellipse(u, v + 0.5, 1.0, 0.34)
    side = np.minimum(_box(u, v - 0.1, 1.0, 0.6, 0.02), _ellipse(u, v - 0.62, 1.0, 0.3))
    paintwork = _shade(colour, 0.9 * u, np.zeros_like(v))
    rim = (v - 0.3 * np.sqrt(np.clip(1 - u**2, 0, 1))) > 0.42
    lacing = np.abs(((u * 2.5 + np.abs(((v + 0.1) * 1.4) % 1 - 0.5)) % 1) - 0.5) < 0.07
    paintwork[rim | lacing] = _shade(_CREAM * 0.9, 0.9 * u, np.zeros_like(v))[rim | lacing]
    top = skin < 0
    paintwork[top] = _CREAM * (0.95 - 0.1 * v[top, None] - 0.06 * u[top, None])
    paintwork[top & (skin > -0.07)] = colour * 0.85
    return np.minimum(side, skin), paintwork


def _bell(u: np.ndarray, v: np.ndarray, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A bell: a dome that opens to a lip, a knob on top and the clapper below."""
    fall = np.clip((v + 0.72) / 1.34, 0, 1)
    half = 0.5 + 0.06 * fall + 0.4 * fall**3
    dome = np.sqrt(np.clip(1 - ((0.72 - 0.42 - (v + 0.72)).clip(0) / 0.32) ** 2, 0, 1))
    body = np.maximum((np.abs(u) - half * np.where(v < -0.42, dome, 1)) * 0.8, np.maximum(v - 0.62, -0.74 - v))
    lip = _box(u, v - 0.6, 1.0, 0.12, 0.1)
    clapper = np.hypot(u, v - 0.78) - 0.2
    knob = np.hypot(u, v + 0.82) - 0.18
    paintwork = _shade(colour, 0.85 * u / np.maximum(half, 0.3).clip(0.3, 1.0), np.full_like(v, -0.15))
    paintwork[clapper < 0] = 0.55 * paintwork[clapper < 0]
    paintwork[lip < 0] = _shade(colour * 1.08, 0.8 * u, (v - 0.6) * 4)[lip < 0]
    paintwork[np.abs(v - 0.28) < 0.04] *= 0.75
    return np.minimum(np.minimum(body, lip), np.minimum(clapper, knob)), paintwork


_PAINTERS = {"drum": _drum, "bell": _bell, "ball": _ball}
