"""Datasets: reading, checking and keeping preference pairs."""
