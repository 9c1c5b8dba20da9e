"""Meta-DMoE (NeurIPS 2022): ``distil show meta-dmoe`` tells what it is and how far it is built."""
