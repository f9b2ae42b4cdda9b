"""Segmentation methods on frozen diffusion models.

``sdfsmis`` and ``diffugts`` hold the two published methods and nothing else; ``fewshot`` and ``tumor`` hold
our own methods, which use them as parts. ``base`` is the interface that all of them share.
"""
