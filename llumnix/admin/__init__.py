"""The admin API: what it says (`schema`), a client of it, and the live view."""
