"""Statements about AlexNet, each with its measured figure and verdict."""
