"""TransKD (IEEE T-ITS 2024): ``distil show transkd`` tells what it is and how far it is built."""
