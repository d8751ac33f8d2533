"""Grafana's dashboards as code. `python -m gvm_metrics.dashboards DIR` writes them; nothing else imports the SDK."""
