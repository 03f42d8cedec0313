"""From files and captions to paired embeddings: encoders, decoding, the plan, the run."""
