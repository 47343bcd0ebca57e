"""Writers of trained models in other formats, one module each."""
