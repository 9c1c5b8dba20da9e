"""DisWOT (CVPR 2023): ``distil show diswot`` tells what it is and how far it is built."""
