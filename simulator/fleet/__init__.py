"""A whole fleet in virtual time: the very scheduler and llumlets of a real one, over engine models.

`fleet` is the front door (arrivals, queue, dispatch, rebalance, failures); `instance` one engine
model with its llumlet; `hooks` what that llumlet sees; `wiring` carries out what it wants.
"""
