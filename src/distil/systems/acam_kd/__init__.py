"""ACAM-KD (ICCV 2025): ``distil show acam-kd`` tells what it is and how far it is built."""
