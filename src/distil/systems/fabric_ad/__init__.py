"""DBFAD (Textile Research Journal 2024): ``distil show fabric-ad`` tells what it is and how far it is built."""
