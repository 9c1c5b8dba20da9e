"""Dynamic Y-KD (arXiv 2023): ``distil show y-kd`` tells what it is and how far it is built."""
