"""Drawing a fundus photograph that never was, and the raters who disagree about its disc and cup.

Everything is drawn from one generator; lengths are fractions of the image's side, with x to the right and y
down. Only numpy and Pillow, so that the same seed gives the same pixels everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.float32]
FIELD_RADIUS = 0.485  # of the camera's round field of view
ANGLES = np.linspace(0, 2 * np.pi, 180, endpoint=False)
SUPERSAMPLE = 2  # vessels are thinner than a pixel at their ends


@dataclass(frozen=True)
class Contour:
    """A closed curve round ``center``: its radius at every angle of ``ANGLES``."""

    center: tuple[float, float]
    radius: NDArray[np.float64]

    def scaled(self, factor: NDArray[np.float64] | float) -> Contour:
        """The curve with its radii multiplied, one factor or one per angle."""
        return Contour(self.center, self.radius * factor)

    def mask(self, size: int) -> NDArray[np.bool_]:
        """Pixels inside, bool size×size."""
        x = (self.center[0] + self.radius * np.cos(ANGLES)) * size
        y = (self.center[1] + self.radius * np.sin(ANGLES)) * size
        canvas = Image.new("L", (size, size))
        ImageDraw.Draw(canvas).polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255)
        return np.asarray(canvas) > 0


@dataclass(frozen=True)
class Eye:
    """One eye: its true contours, and the masks of its raters as bool R×size×size."""

    image: NDArray[np.uint8]  # size×size×3
    disc: Contour
    cup: Contour
    raters: dict[str, NDArray[np.bool_]]


def draw_eye(rng: np.random.Generator, size: int, num_raters: int) -> Eye:
    """A left or right eye with a cup-to-disc ratio between 0.3 and 0.8, and ``num_raters`` opinions on it."""
    side = int(rng.choice([-1, 1]))  # where the disc lies from the middle: the nose's side
    center = (0.5 + side * rng.uniform(0.15, 0.22), 0.5 + rng.uniform(-0.04, 0.04))
    disc = Contour(center, _ellipse(rng.uniform(0.066, 0.085), rng.uniform(0.86, 0.97)) * _wobble(rng, 0.012))
    cup = _draw_cup(rng, disc, side)
    pixels = _paint(rng, size, disc, cup, side)
    masks = [_rate(rng, disc, cup, size) for _ in range(num_raters)]
    raters = {"cup": np.stack([cup for cup, _ in masks]), "disc": np.stack([disc for _, disc in masks])}
    return Eye(pixels, disc, cup, raters)


def _draw_cup(rng: np.random.Generator, disc: Contour, side: int) -> Contour:
    ratio = float(np.clip(rng.normal(0.5, 0.13), 0.3, 0.8))
    height = float(disc.radius.max())
    shift = (1 - ratio) * height * 0.25  # cups sit a little to the temple's side
    center = (
        disc.center[0] - side * shift * rng.uniform(0, 1),
        disc.center[1] + shift * rng.uniform(-0.5, 0.5),
    )
    return Contour(center, _ellipse(height * ratio, rng.uniform(0.85, 1.0)) * _wobble(rng, 0.04))


def _ellipse(height: float, width_ratio: float) -> NDArray[np.float64]:
    """Radii of an upright ellipse with half-axes height and height·width_ratio."""
    width = height * width_ratio
    return height * width / np.hypot(height * np.cos(ANGLES), width * np.sin(ANGLES))


def _wobble(rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """A smooth factor round 1 along a contour: a few waves of random phase, the shorter the weaker."""
    waves = [rng.normal(0, strength / k) * np.cos(k * ANGLES + rng.uniform(0, 2 * np.pi)) for k in range(1, 7)]
    return 1 + np.sum(waves, axis=0)


def _rate(
    rng: np.random.Generator, disc: Contour, cup: Contour, size: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """One rater's cup and disc: their own bias and a hand that wavers; the cup's edge is the harder one."""
    seen_disc = disc.scaled(_wobble(rng, 0.02) * rng.normal(1.0, 0.02)).mask(size)
    seen_cup = cup.scaled(_wobble(rng, 0.06) * rng.normal(1.0, 0.07)).mask(size)
    return seen_cup & seen_disc, seen_disc


def _paint(rng: np.random.Generator, size: int, disc: Contour, cup: Contour, side: int) -> NDArray[np.uint8]:
    y, x = ((np.mgrid[:size, :size] + 0.5) / size).astype(np.float32)
    macula = (disc.center[0] - side * rng.uniform(0.30, 0.34), disc.center[1] + rng.uniform(0.02, 0.05))
    retina = _paint_retina(rng, x, y, macula)
    vessels = _draw_vessels(rng, size, disc.center, macula, side)
    retina = _paint_disc(rng, retina, x, y, disc, cup)
    # blood absorbs green and blue, hardly red; on the bright cup vessels bend out of sight and pale
    fade = 1 - 0.35 * _soft_mask(cup, size, 0.006)
    retina *= 1 - (vessels * fade)[..., None] * np.array([0.34, 0.62, 0.55], dtype=np.float32)
    lit = _expose(rng, retina, x, y)
    field = np.clip((FIELD_RADIUS - np.hypot(x - 0.5, y - 0.5)) * size / 2.5, 0, 1)[..., None]
    dark = np.array([0.012, 0.008, 0.008], dtype=np.float32)
    photo = lit * field + dark * (1 - field)
    photo += rng.normal(0, 0.008, photo.shape).astype(np.float32) * (0.3 + 0.7 * field)
    return np.round(np.clip(photo, 0, 1) * 255).astype(np.uint8)


def _paint_retina(rng: np.random.Generator, x: Array, y: Array, macula: tuple[float, float]) -> Array:
    """Orange-red ground, mottled by the choroid, darker at the macula, with a pin-prick foveal reflex."""
    size = len(x)
    ground = np.array([0.74, 0.36, 0.17]) * (1 + rng.normal(0, [0.05, 0.10, 0.16]))
    mottling = 0.06 * _noise(rng, size, 5) + 0.045 * _noise(rng, size, 14) + 0.03 * _noise(rng, size, 40)
    distance = np.hypot(x - macula[0], y - macula[1])
    shade = 1 - 0.34 * np.exp(-((distance / 0.075) ** 2)) - 0.10 * np.exp(-((distance / 0.19) ** 2))
    reflex = 0.12 * np.exp(-((distance / 0.006) ** 2))
    # the choroid shows in green more than in red, which is near saturation
    response = np.array([0.7, 1.3, 1.2], dtype=np.float32)
    texture = np.exp(mottling[..., None] * response + np.log(shade)[..., None] * response)
    return np.asarray(ground * texture + reflex[..., None], dtype=np.float32)


def _paint_disc(rng: np.random.Generator, retina: Array, x: Array, y: Array, disc: Contour, cup: Contour) -> Array:
    """Pale rim and paler cup with soft edges, a halo of nerve fibres and sometimes atrophy beside them."""
    size = len(retina)
    distance = np.hypot(x - disc.center[0], y - disc.center[1])
    halo = rng.uniform(0.10, 0.28) * np.exp(-((distance / 0.15) ** 2))
    retina = (retina * (1 + halo[..., None])).astype(np.float32)
    atrophy = disc.scaled(1 + rng.uniform(0, 0.22) * np.clip(np.cos(ANGLES - rng.uniform(0, 2 * np.pi)), 0, 1))
    layers = (  # colour, range of opacity, range of softness
        (atrophy, (0.84, 0.56, 0.34), (0.50, 0.60), (0.007, 0.009)),
        (disc, (0.93, 0.62, 0.36), (0.72, 0.92), (0.003, 0.006)),
        (cup, (1.00, 0.86, 0.62), (0.60, 0.92), (0.006, 0.012)),
    )
    for contour, colour, opacity, softness in layers:
        alpha = (rng.uniform(*opacity) * _soft_mask(contour, size, rng.uniform(*softness)))[..., None]
        paint = np.array(colour) * rng.uniform(0.94, 1.03) * (1 + 0.05 * _noise(rng, size, 60))[..., None]
        retina = (retina * (1 - alpha) + paint * alpha).astype(np.float32)
    return retina


def _expose(rng: np.random.Generator, retina: Array, x: Array, y: Array) -> Array:
    """Light that falls off to the edge and leans to one side, and a lens that is slightly soft."""
    tilt = rng.normal(0, 0.16, 2)
    radius = np.hypot(x - 0.5, y - 0.5) / FIELD_RADIUS
    light = (1.04 - 0.42 * np.clip(radius, 0, 1.2) ** 2.6) * (1 + tilt[0] * (x - 0.5) + tilt[1] * (y - 0.5))
    lit = np.clip(retina * light[..., None] * rng.uniform(0.88, 1.08), 0, 1)
    blur = ImageFilter.GaussianBlur(rng.uniform(0.0008, 0.0018) * len(x))
    picture = Image.fromarray(np.round(lit * 255).astype(np.uint8)).filter(blur)
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Smooth noise of unit strength with about ``cells`` bumps per side."""
    grid = Image.fromarray(rng.normal(0, 1, (cells + 3, cells + 3)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _soft_mask(contour: Contour, size: int, softness: float) -> Array:
    """The contour's inside as [0, 1] with an edge about ``softness`` wide."""
    canvas = Image.fromarray(contour.mask(size).astype(np.uint8) * 255)
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(softness * size)), dtype=np.float32) / np.float32(255)


def _draw_vessels(
    rng: np.random.Generator, size: int, disc: tuple[float, float], macula: tuple[float, float], side: int
) -> Array:
    """How much blood lies over each pixel, in [0, 1]: artery and vein in four directions, with branches."""
    canvas = Image.new("L", (size * SUPERSAMPLE, size * SUPERSAMPLE))
    tree = _Vessels(rng, ImageDraw.Draw(canvas), size * SUPERSAMPLE, disc, macula)
    for vertical in (-1, 1):
        for temporal in (True, False):
            for width, shade, offset in ((0.0105, 255, -0.12), (0.0075, 175, 0.12)):  # vein, artery
                heading = np.arctan2(vertical, -side * (0.15 if temporal else -0.8)) + offset + rng.normal(0, 0.08)
                width *= rng.uniform(0.85, 1.1) * (1.0 if temporal else 0.75)
                tree.grow(disc, float(heading), width, shade, arcade=temporal)
    canvas = canvas.filter(ImageFilter.GaussianBlur(0.0012 * size * SUPERSAMPLE))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)


@dataclass(frozen=True)
class _Vessels:
    rng: np.random.Generator
    draw: ImageDraw.ImageDraw
    pixels: int
    disc: tuple[float, float]
    macula: tuple[float, float]

    def grow(self, start: tuple[float, float], heading: float, width: float, shade: int, arcade: bool) -> None:
        """Walk from ``start``, tapering; an arcade arches round the macula, others leave the disc behind."""
        step, wind, (x, y) = 0.008, 0.0, start
        taper = 0.991 if arcade else 0.984
        while width > 0.0012 and np.hypot(x - 0.5, y - 0.5) < FIELD_RADIUS + 0.02:
            wind = 0.8 * wind + self.rng.normal(0, 0.028)
            heading += wind + self._steer(x, y, heading, arcade)
            end = (x + step * float(np.cos(heading)), y + step * float(np.sin(heading)))
            line = [(x * self.pixels, y * self.pixels), (end[0] * self.pixels, end[1] * self.pixels)]
            self.draw.line(line, fill=shade, width=max(1, round(width * self.pixels)))
            (x, y), width = end, width * taper
            off_disc = np.hypot(x - self.disc[0], y - self.disc[1]) > 0.08
            if off_disc and width > 0.0017 and self.rng.random() < 0.075:
                turn = self.rng.choice([-1, 1]) * self.rng.uniform(0.45, 0.9)
                self.grow(
                    (x, y),
                    heading + float(turn),
                    width * self.rng.uniform(0.45, 0.7),
                    shade - 12,
                    arcade=False,
                )
                width *= 0.95

    def _steer(self, x: float, y: float, heading: float, arcade: bool) -> float:
        """The turn of one step: round the macula or away from the disc, never through the fovea."""
        dx, dy = x - self.macula[0], y - self.macula[1]
        outward = float(np.arctan2(dy, dx))
        if arcade or np.hypot(dx, dy) < 0.07:
            turns = [_angle(outward + quarter - heading) for quarter in (np.pi / 2, -np.pi / 2)]
            return 0.055 * min(turns, key=abs)
        return 0.03 * _angle(float(np.arctan2(y - self.disc[1], x - self.disc[0])) - heading)


def _angle(difference: float) -> float:
    """The same angle between -pi and pi."""
    return float(np.arctan2(np.sin(difference), np.cos(difference)))
