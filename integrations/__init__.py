"""A file for each outside library, installed as `dlink_adapter.integrations`; each is imported only when it is used."""
