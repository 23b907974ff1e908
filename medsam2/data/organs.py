"""Drawing a volume of organs that never were: smooth bodies, each beside a neighbour of like intensity, and raters.

On some slices an organ and its neighbour touch and no border is seen between them, on others they lie apart: the
slices beside a slice tell what is on it. Organs begin and end inside the volume, their neighbours go on.

Lengths are fractions of a slice's side, x to the right and y down; depth runs from 0, the first slice, to 1, the last.
Only numpy, so that the same seed gives the same pixels everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
ANGLES = np.linspace(0, 2 * np.pi, 96, endpoint=False)
SOFTNESS = 0.009  # width of an edge
HAND = 0.011  # how far raters' borders lie apart
SMALLEST = 0.02  # radius below which there is nothing


class Organ(NamedTuple):
    """What organs of a kind have in common; the rest is drawn for each volume."""

    center: tuple[float, float]
    radius: float
    dent: float  # share of the radius that is missing on one side: a bean does not fill its box
    width: float  # of the ellipse, where its height is 1
    turn: float  # radians from the first to the last slice
    drift: float  # of the centre
    start: tuple[float, float]  # depth of the first slice, from … to
    end: tuple[float, float]  # and of the last
    side: float  # where its neighbour lies: radians from the right, downwards


ORGANS = {
    "lobe": Organ((0.33, 0.44), 0.20, 0.65, 0.68, 1.2, 0.05, (0.08, 0.20), (0.78, 0.92), 1.6),
    "kidney": Organ((0.72, 0.63), 0.135, 0.70, 0.68, 1.8, 0.06, (0.20, 0.35), (0.65, 0.92), 2.4),
    "vessel": Organ((0.57, 0.24), 0.085, 0.0, 0.55, 3.0, 0.06, (0.08, 0.30), (0.60, 0.92), 0.4),
}


@dataclass(frozen=True)
class Body:
    """A closed curve on each of D slices: its radius at every angle of ``ANGLES``, D×96, round ``center``, D×2 (x, y).

    Where its radius is 0 it is absent.
    """

    center: Floats
    radius: Floats

    def window(self, size: int) -> tuple[slice, slice, slice]:
        """All slices, and the rows and columns of what may be drawn of it: most of a slice is not looked at."""
        reach = self.radius.max(axis=1, keepdims=True) + 8 * HAND
        low = np.floor((self.center - reach).min(axis=0) * size).clip(0, size).astype(int)
        high = np.ceil((self.center + reach).max(axis=0) * size).clip(0, size).astype(int)
        return slice(None), slice(low[1], high[1]), slice(low[0], high[0])

    def look_up(self, size: int) -> tuple[Array, NDArray[np.intp]]:
        """Of every pixel of the window, D×h×w: how far from the centre, and where in D×96 values its angle stands."""
        place = (np.arange(size, dtype=np.float32) + 0.5) / size
        _, rows, columns = self.window(size)
        x = place[None, None, columns] - self.center[:, 0, None, None].astype(np.float32)
        y = place[None, rows, None] - self.center[:, 1, None, None].astype(np.float32)
        angle = np.rint(np.arctan2(y, x) * np.float32(len(ANGLES) / (2 * np.pi))).astype(np.intp)
        return np.hypot(x, y), angle % len(ANGLES) + len(ANGLES) * np.arange(len(self.center))[:, None, None]


class Drawn(NamedTuple):
    """A volume: ``image`` D×H×W in [0, 1], ``raters`` R×D×H×W by organ; for no rater a pixel is of two organs."""

    image: Array
    raters: dict[str, NDArray[np.bool_]]


class Layer(NamedTuple):
    """Something painted: opacity in a window, and its grey level."""

    window: tuple[slice, slice, slice]
    opacity: Array
    level: float


def draw_volume(rng: np.random.Generator, size: int, depth: int, num_raters: int, noise: float) -> Drawn:
    """A patient with one organ of each kind; ``noise`` is the standard deviation of white noise on the image."""
    t, raters = np.linspace(0, 1, depth), {}
    taken = np.zeros((num_raters, depth, size, size), dtype=np.bool_)
    neighbours, organs = [], []
    for name, organ in ORGANS.items():
        body, level = _draw_body(rng, organ, t), rng.uniform(0.52, 0.72)
        organs.append(_fill(body, size, level))
        neighbours.append(_fill(_draw_neighbour(rng, body, organ.side, t), size, level + rng.uniform(-0.03, 0.03)))
        raters[name] = _rate(rng, body, t, size, num_raters) & ~taken
        taken |= raters[name]
    return Drawn(_paint(rng, [*neighbours, *organs], size, depth, noise), raters)


# ------------------------------------------------------------------------------------------------------ bodies


def _draw_body(rng: np.random.Generator, organ: Organ, t: Floats) -> Body:
    start, end = rng.uniform(*organ.start), rng.uniform(*organ.end)
    turned = ANGLES - rng.uniform(0, 2 * np.pi) - organ.turn * rng.choice([-1, 1]) * (t - 0.5)[:, None]
    shape = organ.width / np.hypot(organ.width * np.cos(turned), np.sin(turned))
    shape *= 1 - organ.dent * np.exp((np.cos(turned) - 1) / 0.25)
    shape *= 1 + 0.06 * _waves(rng, t)
    along = np.clip((t - start) / (end - start), 0, 1)
    radius = organ.radius * rng.uniform(0.85, 1.1) * (4 * along * (1 - along)) ** 0.4
    center = np.array(organ.center) + _path(rng, t, organ.drift)
    return Body(center, np.where(radius[:, None] > SMALLEST, radius[:, None] * shape, 0))


def _draw_neighbour(rng: np.random.Generator, body: Body, side: float, t: Floats) -> Body:
    """A rounder body beside another, there on every slice: now they touch, now they lie apart."""
    reach = float(body.radius.max())
    radius = reach * rng.uniform(0.6, 0.9)
    gap = 0.15 * np.sin(2 * np.pi * (t * rng.uniform(1, 1.5) + rng.uniform(0, 1)))
    angle = side + rng.uniform(-0.4, 0.4) + rng.uniform(-1, 1) * (t - 0.5)
    away = (0.85 + gap)[:, None] * (reach + radius) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Body(body.center + away, radius * (1 + 0.08 * _waves(rng, t)))


def _path(rng: np.random.Generator, t: Floats, drift: float) -> Floats:
    """D×2: a place of its own, a slope and a bow."""
    place, slope, bow = rng.uniform(-0.03, 0.03, 2), rng.uniform(-1, 1, 2), rng.uniform(-0.5, 0.5, 2)
    return np.asarray(place + drift * ((t - 0.5)[:, None] * slope + np.sin(np.pi * t)[:, None] * bow))


def _waves(rng: np.random.Generator, t: Floats) -> Floats:
    """D×96, about unit strength, smooth along the curve and from slice to slice."""
    k = np.arange(1, 6)
    phase = rng.uniform(0, 2 * np.pi, 5) + rng.uniform(-2.5, 2.5, 5) * t[:, None]
    return np.asarray((rng.normal(0, 1, 5) / k * np.cos(k * ANGLES[:, None] + phase[:, None])).sum(axis=-1))


def _rate(rng: np.random.Generator, body: Body, t: Floats, size: int, count: int) -> NDArray[np.bool_]:
    """R×D×H×W: each rater has a bias, a hand that wavers along curve and slices, and own first and last slices."""
    masks = np.zeros((count, len(t), size, size), dtype=np.bool_)
    distance, index = body.look_up(size)
    for mask in masks:
        drawn = body.radius + HAND * (rng.normal(0, 0.6) + 0.7 * _waves(rng, t))
        there = body.radius.max(axis=1, keepdims=True) > SMALLEST * rng.uniform(1, 2.5)
        mask[body.window(size)] = distance < np.where(there, drawn, 0).astype(np.float32).take(index)
    return masks


# ------------------------------------------------------------------------------------------------------- pixels


def _fill(body: Body, size: int, level: float) -> Layer:
    """The inside of a body, with a soft edge."""
    distance, index = body.look_up(size)
    radius = body.radius.astype(np.float32).take(index)
    depth = np.clip((radius - distance) / np.float32(SOFTNESS), -20, 20)
    return Layer(body.window(size), (radius > 0) / (1 + np.exp(-depth)), level)


def _paint(rng: np.random.Generator, layers: list[Layer], size: int, depth: int, noise: float) -> Array:
    """The layers, the last on top, in a trunk of soft tissue under uneven light."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    edge = np.clip((1 - np.hypot(x / 0.47, y / 0.43)) * 0.45 / SOFTNESS, -20, 20)
    image = np.repeat((0.05 + 0.3 / (1 + np.exp(-edge))).astype(np.float32)[None], depth, axis=0)
    for window, opacity, level in layers:
        image[window] += opacity * (np.float32(level) - image[window])
    image *= 1 + np.float32(0.08) * _cloud(rng, image.shape, (2, 3, 3))
    image += np.float32(0.03) * _cloud(rng, image.shape, (6, 14, 14))
    image += np.float32(noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return image.clip(0, 1)


def _cloud(rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, ...]) -> Array:
    """Smooth noise of unit strength with about so many bumps along each axis."""
    cloud = rng.standard_normal([number + 2 for number in cells], dtype=np.float32)
    for length, number in zip(shape, cells, strict=True):
        place = np.linspace(0.5, number + 0.5, length)[:, None] - np.arange(number + 2)
        weights = np.exp(-0.5 * (place / 0.6) ** 2).astype(np.float32)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        cloud = np.tensordot(cloud, weights, axes=(0, 1))  # the next axis comes first, this one last
    return np.asarray(cloud, dtype=np.float32)
