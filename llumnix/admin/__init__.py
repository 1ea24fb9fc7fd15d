"""The admin API: its objects (`schema`), its client, and the live view."""
