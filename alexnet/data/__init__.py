"""Images to batches: decoding, sources, the store, order and prefetching, augmentation."""
