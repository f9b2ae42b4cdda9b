"""DiffuGTS (CVPR 2025), the paper and nothing else: attention maps of prompts, inpainting, residuals."""
