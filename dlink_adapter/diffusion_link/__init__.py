"""Diffusion-Link, the method of the paper (Nam et al., 2025, arXiv 2510.11330), and nothing else.

config, schedules (the forward process), network, losses, samplers (the reverse process), link (the bridge), calibrate.
"""
