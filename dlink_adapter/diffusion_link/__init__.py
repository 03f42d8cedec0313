"""Diffusion-Link, the method of the paper (arXiv 2510.11330), and nothing else."""
