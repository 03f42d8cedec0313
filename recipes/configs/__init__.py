"""YAML files for `dlink <recipe> --config`, found here by their bare names."""
