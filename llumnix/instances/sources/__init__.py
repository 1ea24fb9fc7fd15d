"""Where the fleet learns of servers: files, DNS names, Kubernetes."""
