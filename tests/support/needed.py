"""What some tests need and not every machine has, and what is said where it is missing: one line per thing."""

import os
import shutil

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_CHROMIUM = "no Chromium (Debian: apt install chromium)"
NO_PLAYWRIGHT = "no Playwright (pip install playwright)"

HAS_PROMETHEUS = bool(shutil.which("prometheus") and shutil.which("promtool"))
NO_PROMETHEUS = "no Prometheus (Debian: apt install prometheus)"

HAS_CLUSTER = bool(os.environ.get("KUBECONFIG") and shutil.which("kubectl"))
NO_CLUSTER = "no cluster (install kubectl and set KUBECONFIG)"
