"""LELP (arXiv 2024): ``distil show lelp`` tells what it is and how far it is built."""
