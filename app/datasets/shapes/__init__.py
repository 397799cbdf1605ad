"""Shapes of preference data: how each is recognised and read."""
