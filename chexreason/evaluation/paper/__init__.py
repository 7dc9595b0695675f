"""The paper's own printed figures (arXiv 2512.23090), and what follows from them without any run."""
