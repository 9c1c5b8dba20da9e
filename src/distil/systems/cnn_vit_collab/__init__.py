"""CNN-ViT collaborative (ICCV 2023): ``distil show cnn-vit-collab`` tells what it is and how far it is built."""
