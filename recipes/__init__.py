"""Scripts with a typed `main`, installed as `dlink_adapter.recipes`: they are the sub-commands of `dlink`."""
