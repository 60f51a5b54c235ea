"""Real Ray and real kills over fake engines. A package, so that its modules can share one cluster."""
