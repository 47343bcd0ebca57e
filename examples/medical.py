"""A demonstration of the recipe ``medical``: slices that pydicom ships, half of them with made opacities.

    pip install 'alexnet[medical]'
    python examples/medical.py scans
    alexnet train medical --data scans

It shows that everything works together: DICOM files, windows, patients, folds, the operating point, the report. **It
says nothing about accuracy on real findings**: the opacities are soft discs that this program adds to the pixels. There
are five slices, three of CT and two of MR; the variants of one slice are one patient, so they are never on both sides
of a split.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

SLICES = ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "examples_overlay.dcm", "MR_small.dcm")
CLASSES = ("clear", "opacity")
SIDE = 128  # pixels
VARIANTS = 12  # of each slice and class


def main(folder: Path) -> None:
    """Write ``folder/clear`` and ``folder/opacity`` with ``VARIANTS`` files of each slice."""
    for patient, name in enumerate(SLICES):
        original = dcmread(str(get_testdata_file(name)))
        pixels = original.pixel_array.astype(np.float64)
        for number, label in ((number, label) for number in range(VARIANTS) for label in CLASSES):
            random = np.random.default_rng((patient, number, CLASSES.index(label)))
            path = folder / label / f"slice{patient}-{number:02d}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(original, f"made-{patient}", _variant(pixels, random, opaque=label == "opacity"), path)


def _variant(pixels: NDArray[np.float64], random: np.random.Generator, *, opaque: bool) -> NDArray[np.int16]:
    """A shifted part of a slice at ``SIDE`` pixels with a little noise, and perhaps a soft disc in the body."""
    share = random.uniform(0.8, 0.95)
    side = int(share * min(pixels.shape))
    top, left = (int(random.integers(0, size - side + 1)) for size in pixels.shape)
    places = np.linspace(0, side - 1, SIDE).round().astype(np.int64)
    made = pixels[top : top + side, left : left + side][np.ix_(places, places)]
    low, high = np.percentile(pixels, (5, 99))
    body = np.argwhere(made[16:-16, 16:-16] > (low + high) / 2)
    row, column = random.choice(body if len(body) else np.array([[48, 48]])) + 16
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(rows - row, columns - column)
    radius = random.uniform(8, 14)
    if opaque:
        made = made + 0.6 * (high - low) / (1 + np.exp(2 * (distance - radius)))
    made = made + random.normal(0, 0.01 * (high - low), made.shape)
    return np.asarray(np.clip(made, -32768, 32767).round(), np.int16)


def _write(original: Dataset, patient: str, pixels: NDArray[np.int16], path: Path) -> None:
    made = Dataset()
    made.file_meta = original.file_meta
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name in ("SOPClassUID", "SOPInstanceUID", "Modality", "RescaleSlope", "RescaleIntercept"):
        if name in original:
            setattr(made, name, original[name].value)
    made.PatientID, made.BurnedInAnnotation = patient, "NO"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.PixelData = pixels.tobytes()
    dcmwrite(path, made, enforce_file_format=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "scans"))
