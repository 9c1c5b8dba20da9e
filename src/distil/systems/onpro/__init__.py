"""OnPro (ICCV 2023): ``distil show onpro`` tells what it is and how far it is built."""
