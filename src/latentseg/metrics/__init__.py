"""Measures of agreement between masks, of presence, and their statistics. Numpy and scipy only."""
