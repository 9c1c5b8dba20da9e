"""MIX-KD (WACV 2023): ``distil show mix-kd`` tells what it is and how far it is built."""
