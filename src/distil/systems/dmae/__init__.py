"""DMAE (CVPR 2023): ``distil show dmae`` tells what it is and how far it is built."""
