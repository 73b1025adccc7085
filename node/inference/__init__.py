"""nnU-Net v2 models, kept warm in a process of their own. Only this package imports torch."""
