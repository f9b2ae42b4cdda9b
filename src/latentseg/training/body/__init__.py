"""Training of the body network: where in the body a slice lies, and how it is turned."""
