"""TAID (ICLR 2025): ``distil show taid`` tells what it is and how far it is built."""
