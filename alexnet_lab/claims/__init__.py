"""Statements about AlexNet, each with a measured figure and a verdict."""
