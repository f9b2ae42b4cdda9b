"""SD-FSMIS (arXiv 2604.03134): a latent diffusion model that segments by examples, in one step.

This package holds the published method and nothing else. Start with ``method.py``, which puts the parts
together: ``network.py`` (the UNet with two inputs), ``interaction.py`` (attention to the examples),
``query_enhancement.py`` (prototypes) and ``condition.py`` (the condition token).
"""
