"""Fault injection: kills, signals, power cuts, damaged files and disks with errors, caused on purpose."""
