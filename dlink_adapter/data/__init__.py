"""Paired embeddings, on disk and in memory, and the tables that name clips."""
