"""Datasets: reading sources, keeping data files, loading records."""
