"""Targets that are shown: SD-FSMIS, and what is ours beside it to find them in whole scans."""
