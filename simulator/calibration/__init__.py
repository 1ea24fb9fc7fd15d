"""Fitting a cost model to the timestamps of a real server, and telling how good the fit is."""
