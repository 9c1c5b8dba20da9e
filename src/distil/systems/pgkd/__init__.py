"""PGKD (EMNLP 2024): ``distil show pgkd`` tells what it is and how far it is built."""
