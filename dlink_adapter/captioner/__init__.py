"""A language model that captions embeddings: the model, its conditions, its training."""
