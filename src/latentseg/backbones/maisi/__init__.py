"""MAISI: NVIDIA's 3-D latent diffusion models of CT and of brain MR, on the classes of monai."""
