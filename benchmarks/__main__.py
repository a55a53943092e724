"""All benchmarks, one after the other, each in a process of its own."""

import subprocess
import sys

for name in ("import_pictures", "train_cpu", "job_overhead", "budgets", "engines", "serving", "mixed"):
    print(f"# {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
