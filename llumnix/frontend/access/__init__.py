"""Who may ask for what: the admin API's guard, clients' keys, their classes and limits."""
