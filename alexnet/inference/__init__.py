"""Inference with a trained model: predictions, the image transform, and features of whole datasets."""
