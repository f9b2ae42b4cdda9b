"""Trainings of the tumor method: synthetic lesions, attention maps, organs and the fusion of residuals."""
