"""The methods that Diffusion-Link is compared with, one a file."""
