"""Our training step and PyTorch's side by side: one architecture, one batch, one precision, one machine."""
