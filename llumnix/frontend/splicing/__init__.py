"""Join streams, as bytes: ledger, transcript, and the splice between two instances' output."""
