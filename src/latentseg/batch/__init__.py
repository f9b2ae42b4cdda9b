"""Cohorts: many scans, one model, nothing lost."""
