"""PCoreSet / ActiveKD (arXiv 2025): ``distil show pcoreset`` tells what it is and how far it is built."""
