"""The paper's tables and figures rebuilt from predictions and metric files, ours beside the printed ones."""
