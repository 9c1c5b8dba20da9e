"""DHO (arXiv 2025): ``distil show dho`` tells what it is and how far it is built."""
