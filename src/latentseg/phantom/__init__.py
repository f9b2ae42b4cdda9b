"""Procedural abdomens, chests and limbs with known labels: for tests, trainings and first steps without data.

Nothing here imports torch.
"""

from latentseg.phantom.bodies import Phantom, abdomen

__all__ = ["Phantom", "abdomen"]
