"""SD-FSMIS (arXiv 2604.03134), the paper and nothing else: a diffusion model as a one-step segmenter."""
