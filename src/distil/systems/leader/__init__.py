"""LEADER (arXiv 2024): ``distil show leader`` tells what it is and how far it is built."""
