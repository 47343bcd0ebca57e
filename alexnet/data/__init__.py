"""From images to batches: sources, decoding, prepared datasets, sampling, loading and augmentation."""
