"""Judging reward models: benchmark rules, metrics and statistics. Pure functions over scores."""
