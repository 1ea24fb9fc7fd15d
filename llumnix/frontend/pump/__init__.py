"""The token path in C, for plain HTTP streams: optional, and equal byte for byte."""
