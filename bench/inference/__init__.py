"""The predictor beside stock nnU-Net, side by side in one run on one machine."""
