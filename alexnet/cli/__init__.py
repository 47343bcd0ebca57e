"""The command line: ``main.py`` and one module per command. Each parses, calls one function of ``api.py``, and prints."""
