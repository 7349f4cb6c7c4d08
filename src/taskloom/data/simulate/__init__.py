"""Made-up data in native formats, for trying things out and for testing readers."""

from taskloom.data.simulate.deap import simulate_deap
from taskloom.data.simulate.opportunity import simulate_opportunity

__all__ = ["simulate_deap", "simulate_opportunity"]
