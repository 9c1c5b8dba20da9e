"""Random Teachers (ICML 2023): ``distil show random-teachers`` tells what it is and how far it is built."""
