"""Labels: which there are, in which order, and how raw marks become targets."""
