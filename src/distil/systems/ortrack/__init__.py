"""ORTrack (CVPR 2025): ``distil show ortrack`` tells what it is and how far it is built."""
