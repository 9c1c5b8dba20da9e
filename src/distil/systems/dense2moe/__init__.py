"""Dense2MoE (ICCV 2025): ``distil show dense2moe`` tells what it is and how far it is built."""
