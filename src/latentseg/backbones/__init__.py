"""Frozen latent diffusion models behind one protocol (:class:`latentseg.backbones.base.Backbone`)."""
