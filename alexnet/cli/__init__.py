"""The command line: ``main.py``, and a module per command that calls one function of ``api.py`` and prints."""
