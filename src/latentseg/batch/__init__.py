"""Batches: one model segments many scans; results appear whole or not at all, and a run can be resumed."""
