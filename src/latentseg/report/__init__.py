"""Reports: one self-contained HTML page about a batch, or about the reproduction of a paper."""
