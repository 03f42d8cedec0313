"""What any bridge can be given: a part wraps a bridge, closed forms included, and is itself one."""
