"""rKD (Cr-KD-NCD) (ICCV 2023): ``distil show cr-kd-ncd`` tells what it is and how far it is built."""
