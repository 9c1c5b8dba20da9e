"""Symbolic KD (NAACL 2022): ``distil show symbolic-kd`` tells what it is and how far it is built."""
