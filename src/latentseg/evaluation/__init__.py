"""Protocols, data sets, metrics, baselines and tables of the few-shot evaluation."""
