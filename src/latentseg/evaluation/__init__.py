"""Evaluation: data sets, protocols, baselines and tables, for few-shot segmentation and for tumors by prompt.

``protocols.py`` and ``runs.py`` evaluate few-shot methods, ``zero_shot.py`` and ``tumor_volumes.py`` tumors
by prompt, ``label_maps.py`` compares masks of any origin with the truth.
"""
