"""Metrics of the modality gap and of captions, their confidence intervals, published scores, and figures."""
