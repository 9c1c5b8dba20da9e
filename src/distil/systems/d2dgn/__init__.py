"""D2DGN (arXiv 2023): ``distil show d2dgn`` tells what it is and how far it is built."""
