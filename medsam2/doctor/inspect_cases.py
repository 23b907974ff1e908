"""One look at one image or one volume: what is in it, and everything that is wrong with it, not only the first.

What comes back is small, and can be sent between processes: no pixels but those of a picture that was asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from medsam2.data.dataset import ImageDataset
from medsam2.data.geometry import check_affine
from medsam2.data.intensity import scale
from medsam2.data.records import Case, Dataset, Record
from medsam2.data.volume_dataset import Opened, VolumeDataset
from medsam2.doctor.contact_sheet import Panel, draw_panel
from medsam2.doctor.findings import Finding, from_error, make_finding
from medsam2.doctor.inspect_files import axis_codes, exif_orientation, palette_colours, read_affine

T = TypeVar("T")

BINS = 24  # of the grey values
SAMPLES = 100_000  # grey values counted of an image or volume


class Seen(NamedTuple):
    """One case that training would get: an image or a slice, with the pixels of each structure, in their order."""

    record: Record
    areas: tuple[int, ...]


@dataclass
class Report:
    """What was found of one record of a listing: an image, or a volume with its slices."""

    record: Record
    parts: list[Record] = field(default_factory=list)  # the image itself, or every slice
    cases: list[Seen] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)  # height, width
    spacing: tuple[float, float] | None = None
    raters: tuple[int, ...] = ()  # of each structure of an image
    grey: NDArray[np.int64] | None = None  # counts of the grey values from 0 to 1 in BINS bins
    limits: tuple[float, float] | None = None  # smallest and largest intensity, of a volume as stored
    digest: bytes = b""  # of the decoded pixels; none if it could not be read
    axes: str = ""  # "RAS", … of a volume
    panel: Panel | None = None

    @property
    def is_volume(self) -> bool:
        """Whether its cases are slices that were decoded together."""
        return bool(self.parts) and self.parts[0].volume == self.record.case_id


class Inspector:
    """Makes the report of a record; ``drawn`` names the images or volumes that get a picture. Picklable."""

    def __init__(self, dataset: Dataset, drawn: frozenset[str] = frozenset()) -> None:
        self.dataset = dataset
        self.drawn = drawn

    def __call__(self, record: Record) -> Report:
        report, draw = Report(record), record.case_id in self.drawn
        if isinstance(self.dataset, VolumeDataset):
            _inspect_volume(self.dataset, report, draw)
        else:
            _inspect_image(self.dataset, report, draw)
        report.findings = _explain(report.findings, record, Path(self.dataset.root))
        return report


def _inspect_image(dataset: Dataset, report: Report, draw: bool) -> None:
    record = report.record
    report.parts = [record]
    case = _attempt(partial(dataset.load, record), report, dataset.root)
    if case is None:
        if isinstance(dataset, ImageDataset):  # it ended at its first damaged mask: the others, one at a time
            for structure, names in record.labels:
                for name in names:
                    alone = replace(record, labels=((structure, (name,)),))
                    _attempt(partial(dataset.load, alone), report, dataset.root)
        return
    report.cases = [Seen(record, tuple(int(case.labels[structure].sum()) for structure in dataset.structures))]
    report.raters = tuple(len(case.raters.get(structure, ())) for structure in dataset.structures)
    report.size, report.spacing = case.image.shape[:2], case.spacing
    report.limits = float(case.image.min()), float(case.image.max())
    report.grey = _count(_sample(case.image))
    report.digest = _hash([case.image])
    report.panel = draw_panel(case) if draw else None
    report.findings += _find_inverted(case)


def _find_inverted(case: Case) -> list[Finding]:
    """Masks that mark what looks like the background: all four corners, and more than half of the pixels."""
    findings = []
    for structure, names in case.record.labels:
        masks = case.raters.get(structure, case.labels[structure][None])
        files = names if len(names) == len(masks) else (names or (case.record.image,))[:1] * len(masks)
        for file, mask in zip(files, masks, strict=True):
            if mask[:: max(1, len(mask) - 1), :: max(1, mask.shape[1] - 1)].all() and mask.mean() > 0.5:
                text = f"{file}: {structure} covers all four corners and {mask.mean():.0%} of the pixels"
                findings.append(make_finding("warning", "inverted mask", file, text))
    return findings


def _inspect_volume(dataset: VolumeDataset, report: Report, draw: bool) -> None:
    volume, root = report.record, dataset.root
    if (affine := read_affine(root / volume.image)) is not None:
        report.axes = _attempt(partial(_find_axes, affine, root / volume.image), report, root) or ""
    counted = _attempt(partial(dataset.slice_areas, volume), report, root)
    opened = _attempt(partial(dataset.open, volume), report, root)
    if counted is None or opened is None:
        return
    count, pixels = counted
    areas = list(zip(*(pixels[structure] for structure in dataset.structures), strict=True))
    if not any(map(any, areas)):
        file = volume.labels[0][1][0]
        text = f"{file}: none of its {count} slices shows {', '.join(dataset.structures)}"
        report.findings.append(make_finding("warning", "empty volume", file, text))
    report.parts, shown = dataset.slices_of(volume), dataset.find_shown(volume)
    report.cases = [Seen(part, areas[part.index]) for part in report.parts if part.index in shown]
    report.size, spacing = opened.image.shape[1:3], opened.geometry.spacing
    report.spacing = spacing and spacing[1:]
    report.limits = float(opened.image.min()), float(opened.image.max())
    report.grey = _count_volume(opened)
    report.digest = _hash(opened.image)
    if draw and report.cases:
        report.panel = draw_panel(dataset.load(max(report.cases, key=lambda case: sum(case.areas)).record))


def _find_axes(affine: NDArray[np.float64], file: Path) -> str:
    check_affine(affine, file)
    return axis_codes(affine)


# ---------------------------------------------------------------------------------------------------- findings


def _attempt(read: Callable[[], T], report: Report, root: Path) -> T | None:
    """What ``read`` returns; None where it raises, which becomes a finding unless a file it names has one already."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # a report goes on, whatever is wrong with a file
        if not any(str(Path(root) / finding.where) in str(error) for finding in report.findings):
            report.findings.append(from_error(error, report.record, Path(root)))
        return None


def _explain(findings: Sequence[Finding], record: Record, root: Path) -> list[Finding]:
    """With what the headers of the files say, in place of the findings that it explains."""
    masks = sorted({name for _, names in record.labels for name in names})
    explained = list(findings)
    turned = exif_orientation(root / record.image)
    if other := [name for name in masks if exif_orientation(root / name) != turned]:
        cause = _take(explained, "size mismatch")
        text = f"{record.image}: {_show_turn(turned)}, and {other[0]} {_show_turn(exif_orientation(root / other[0]))}"
        explained.append(make_finding("error" if cause else "warning", "EXIF rotation", record.image, text))
    for name in masks:
        if colours := palette_colours(root / name):
            cause = _take(explained, "undeclared value", name)
            shown = ", ".join(f"{index} is {colour}" for index, colour in list(colours.items())[:4])
            text = f"{name}: a palette image is read by its indices, and its colours are no grey values: {shown}"
            explained.append(make_finding("error" if cause else "warning", "palette mask", name, text))
    return explained


def _take(findings: list[Finding], kind: str, where: str | None = None) -> bool:
    """Removes the findings of a kind (and place); whether there were any."""
    rest = [finding for finding in findings if finding.kind != kind or where not in (None, finding.where)]
    taken = len(rest) < len(findings)
    findings[:] = rest
    return taken


def _show_turn(orientation: int) -> str:
    return "has no EXIF rotation" if orientation == 1 else f"is turned by its EXIF tag {orientation}"


# ------------------------------------------------------------------------------------------------------ pixels


def _hash(slices: NDArray[np.generic] | Sequence[NDArray[np.generic]]) -> bytes:
    """Of type, shape and pixels; slice by slice, because a view of a volume must not be copied as a whole."""
    digest = hashlib.sha256(f"{len(slices)} {slices[0].shape} {slices[0].dtype}".encode())
    for one in slices:
        digest.update(np.ascontiguousarray(one).data)
    return digest.digest()


def _sample(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """At most SAMPLES values, evenly spread."""
    step = -(-array.size // SAMPLES)
    return array.reshape(-1)[::step] if array.flags.c_contiguous else array.flat[::step]


def _count_volume(opened: Opened) -> NDArray[np.int64]:
    channels = opened.image.reshape(*opened.image.shape[:3], -1)
    each = [scale(_sample(channels[..., c]), *limits) for c, limits in enumerate(opened.limits)]
    return _count(np.concatenate(each))


def _count(grey: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.bincount(np.clip(grey * BINS, 0, BINS - 1).astype(np.int64), minlength=BINS)
