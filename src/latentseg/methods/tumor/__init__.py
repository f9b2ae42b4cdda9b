"""Tumors that are named: DiffuGTS, and what is ours beside it (organs, views, evidence)."""
