"""Scores of preference pairs and the metrics computed from them."""
