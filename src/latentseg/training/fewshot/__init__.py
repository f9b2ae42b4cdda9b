"""Trainings of the few-shot method: episodes, supervoxels, SD-FSMIS and the matching features."""
