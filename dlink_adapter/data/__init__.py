"""Paired embeddings on disk and in memory, and tables of clips and captions."""
