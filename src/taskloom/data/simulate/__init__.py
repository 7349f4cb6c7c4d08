"""Made-up data in native formats, for trying things out and for testing readers."""

from taskloom.data.simulate.celeba import simulate_celeba
from taskloom.data.simulate.deap import simulate_deap
from taskloom.data.simulate.mtfl import simulate_mtfl
from taskloom.data.simulate.opportunity import simulate_opportunity
from taskloom.data.simulate.utkface import simulate_utkface

__all__ = [
    "simulate_celeba",
    "simulate_deap",
    "simulate_mtfl",
    "simulate_opportunity",
    "simulate_utkface",
]
