"""Trainings: what all share (packed slices, augmentation, a loop that can be resumed), and each recipe."""
