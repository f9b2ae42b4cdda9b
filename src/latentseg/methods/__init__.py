"""Segmentation methods on a frozen backbone: the two papers as published, and what is ours beside them."""
