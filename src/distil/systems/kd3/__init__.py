"""KD3 (ICCV 2023): ``distil show kd3`` tells what it is and how far it is built."""
