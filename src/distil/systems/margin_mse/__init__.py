"""Margin-MSE (arXiv 2020): ``distil show margin-mse`` tells what it is and how far it is built."""
