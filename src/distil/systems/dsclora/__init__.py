"""DSCLoRA (CVPR workshop (NTIRE) 2025): ``distil show dsclora`` tells what it is and how far it is built."""
