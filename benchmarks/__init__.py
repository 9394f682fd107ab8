"""Programs that measure: speed, robustness, soak. Not part of the package."""
