"""The admin API as its clients see it: typed answers, a client, and the live view."""
