"""DiffuGTS (CVPR 2025): finds tumors by a text prompt, trained without masks of that kind of tumor.

This package holds the published method and nothing else. Its steps are: ``adapters.py`` and
``attention_maps.py`` turn frozen features and a prompt into a map of abnormal tissue, ``inpainting.py``
replaces the suspicious tissue by what a healthy scan would show, ``residuals.py`` compares the two images,
and ``refinement.py`` runs these steps. Parts of the paper are known to us only secondhand; each file says
which.
"""
