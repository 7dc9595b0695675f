"""From config to objects: the only room that instantiates, and the last one that sees a DictConfig."""
