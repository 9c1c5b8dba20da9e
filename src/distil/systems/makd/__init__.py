"""MaKD (CVPR workshop (FGVC) 2025): ``distil show makd`` tells what it is and how far it is built."""
