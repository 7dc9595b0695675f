"""Data: from vendor files to one manifest, and from its rows to studies and images."""
