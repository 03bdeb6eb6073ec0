"""NaN and infinity: noticing them, finding the step, and explaining it."""
