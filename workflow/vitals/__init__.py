"""ViTals: the vital signs of Vision Transformers, layer by layer."""
