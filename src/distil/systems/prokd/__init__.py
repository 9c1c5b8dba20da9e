"""ProKD (AAAI 2023): ``distil show prokd`` tells what it is and how far it is built."""
