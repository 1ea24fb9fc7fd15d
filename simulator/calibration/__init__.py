"""Fitting a cost model to the timestamps of a real server, and judging the fit."""
