"""TRG (arXiv 2023): ``distil show trg`` tells what it is and how far it is built."""
