"""A timm model: how it is made, trained or loaded, and its anatomy."""
