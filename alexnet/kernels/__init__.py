"""Faster layers that replace reference layers from outside; each is held to the reference layer by tests."""
