"""A demonstration of the recipes ``segmentation`` and ``detection``: made images of shapes, with masks and boxes.

    pip install 'alexnet[detection]'
    python examples/shapes.py shapes
    alexnet train segmentation --data shapes --set train.epochs=3
    alexnet train detection --data shapes --set train.epochs=3

The shapes and what is behind them are parts of two photographs that scikit-learn ships: one for training, the other for
the test. It shows that everything works together. **Such short trainings on so few images find
nothing yet**; docs/segmentation.md and docs/detection.md have measured ones.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alexnet_lab.made_scenes import shipped_photographs, write_scenes

COUNTS = {"train": 80, "test": 20}


def main(folder: Path) -> None:
    """Write ``folder/train`` and ``folder/test`` with images, masks and boxes."""
    with tempfile.TemporaryDirectory() as place:
        write_scenes(shipped_photographs(Path(place)), folder, 0, COUNTS)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "shapes"))
