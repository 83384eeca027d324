"""The edge process: expand segments with small models."""
