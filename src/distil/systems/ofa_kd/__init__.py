"""OFA-KD (NeurIPS 2023): ``distil show ofa-kd`` tells what it is and how far it is built."""
