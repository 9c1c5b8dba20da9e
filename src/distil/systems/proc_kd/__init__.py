"""ProC-KD (Frontiers of IT & EE 2025): ``distil show proc-kd`` tells what it is and how far it is built."""
