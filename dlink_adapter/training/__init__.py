"""Fits a bridge of any kind: training by descent, calibration, checkpoints, processes."""
