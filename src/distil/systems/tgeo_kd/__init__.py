"""TGeo-KD (ICLR 2024): ``distil show tgeo-kd`` tells what it is and how far it is built."""
