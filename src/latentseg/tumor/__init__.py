"""DiffuGTS: tumors named in a text prompt, found as what a frozen latent diffusion model calls abnormal."""
