"""Programs beside the package: training of the shipped models, writers of generated documents."""
