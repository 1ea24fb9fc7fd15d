"""A whole fleet in virtual time: a real fleet's own scheduler and llumlets, over engine models.

`fleet` is the front (arrivals, queue, dispatch, rebalance, failures); `instance` one engine model
with its llumlet; `hooks` what that llumlet sees; `wiring` carries out its effects.
"""
