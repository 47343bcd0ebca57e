"""Convert weights from and to other formats."""
