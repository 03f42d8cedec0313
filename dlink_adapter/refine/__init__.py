"""Parts that any bridge can be given. Each wraps a bridge, closed forms included, and is itself one."""
