"""SD-FSMIS (arXiv 2604.03134): segment what one to five marked examples show."""
