"""LEAF (arXiv 2025): ``distil show leaf`` tells what it is and how far it is built."""
