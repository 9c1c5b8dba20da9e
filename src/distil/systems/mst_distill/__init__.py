"""MST-Distill (ACM Multimedia 2025): ``distil show mst-distill`` tells what it is and how far it is built."""
