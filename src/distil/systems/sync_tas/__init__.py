"""Sync-TAS (ECCV 2024): ``distil show sync-tas`` tells what it is and how far it is built."""
