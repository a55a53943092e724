"""Which labels are probably wrong: features, out-of-fold answers, confident learning. It knows no tables."""
