"""Features of an alexnet model with thingsvision: ``python thingsvision_features.py MODEL FOLDER LAYER OUT``.

It was run against a stub of thingsvision's documented interface only. ``alexnet features`` writes the same without
thingsvision. The ReLUs of these networks do not work in place, so ``conv5`` is before the ReLU and ``relu5`` after it.
"""

import sys

import numpy as np
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import DataLoader, ImageDataset
from thingsvision.utils.storing import save_features

from alexnet import create_transform, load_model


def extract(model: str, folder: str, layer: str, out: str, batch_size: int = 32) -> np.ndarray:
    """The features ``(images, units)`` of a layer for the images in a folder, also saved in the folder ``out``."""
    network = load_model(model)
    extractor = get_extractor_from_model(
        model=network, device="cpu", backend="pt", preprocess=create_transform(network)
    )
    dataset = ImageDataset(
        root=folder, out_path=out, backend=extractor.get_backend(), transforms=extractor.get_transformations()
    )
    batches = DataLoader(dataset=dataset, batch_size=batch_size, backend=extractor.get_backend())
    features = extractor.extract_features(batches=batches, module_name=layer, flatten_acts=True, output_type="ndarray")
    save_features(features, out_path=out, file_format="npy")
    return features


if __name__ == "__main__":
    extract(*sys.argv[1:5])
