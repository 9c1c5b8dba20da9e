"""NRR-DD (CVPR 2025): ``distil show nrr-dd`` tells what it is and how far it is built."""
