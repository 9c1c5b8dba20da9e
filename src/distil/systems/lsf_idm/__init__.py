"""LSF-IDM (arXiv 2023): ``distil show lsf-idm`` tells what it is and how far it is built."""
