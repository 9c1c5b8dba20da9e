"""INFER (ICLR 2025): ``distil show infer`` tells what it is and how far it is built."""
