"""What is measured, by what name, and how Grafana shows it. Knows nothing of how a value comes about."""
