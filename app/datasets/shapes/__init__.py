"""Shapes in which preference data come: how each is recognised and read."""
