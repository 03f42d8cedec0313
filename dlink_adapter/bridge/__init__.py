"""What every bridge has: the base class, the space, noise, saving and loading."""
