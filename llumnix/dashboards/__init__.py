"""The fleet dashboard and alert rules, described here and generated into `dashboards/`."""
