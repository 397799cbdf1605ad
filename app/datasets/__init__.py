"""Datasets: read, check and store preference pairs."""
