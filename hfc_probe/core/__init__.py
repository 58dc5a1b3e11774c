"""Measurement, Result, intervals, drawing words, the event file."""
